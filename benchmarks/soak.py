"""A long run with actors in processes: does anything grow that should not?

    python benchmarks/soak.py [--minutes 60] [--count 1] [--kill-every 0] [--out soak.json]

Trains ``classact`` on scikit-learn's digits for that long and looks every few seconds: resident
memory of the learner's process and of each actor, open files and threads of the learner's, files in
/dev/shm, the staleness of what is learned. With ``--kill-every S`` an actor is killed every ``S``
seconds. Everything goes to ``--out``; the table compares the second tenth of the time with the
last. Exits with 1 if memory grew by over 5 %, files or threads by any, or staleness left its bound.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from superbatch import training
from superbatch.config import Config
from superbatch.recipes import recipe
from superbatch.surroundings import Surroundings


MEMORY_LIMIT = 1.05
SECONDS_BETWEEN_LOOKS = 5.0
STALENESS = 3
WAITED = 3
"""Steps that an example can wait in a bank of four super-batches."""
TINY = "mu-2400/4"


def settings(out: Path, count: int) -> Config:
    """More steps than there is time for."""
    return recipe("classact").changed(
        steps=10**7,
        out=str(out),
        device="cpu",
        models={"learner": "mu-1000/4", "online": TINY, "reference": TINY},
        reference_training={"steps": 100},
        data={"flip": True, "label_noise": 0.2},
        select={"bank_super_batches": WAITED + 1},
        record={"log_every": 20, "evaluate_every": 500, "checkpoint_every": 500},
        actors={"kind": "process", "count": count, "max_staleness": STALENESS},
    )


class Watch:
    """Looks at this process and its actors every few seconds, from a thread."""

    def __init__(self, run: Path, seconds: float, kill_every: float) -> None:
        self.run = run
        self.until = time.monotonic() + seconds
        self.kill_every = kill_every
        self.kills = 0
        self.looks: list[dict[str, Any]] = []
        self._begun = self._killed = time.monotonic()
        self._read = 0

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until

    def look(self) -> None:
        """Look until the time is up."""
        while not self.over():
            time.sleep(SECONDS_BETWEEN_LOOKS)
            actors = actor_pids()
            look = {
                "seconds": round(time.monotonic() - self._begun, 1),
                "learner/resident_mb": resident(os.getpid()),
                "actors/resident_mb": max(map(resident, actors), default=0.0),
                "learner/open_files": len(list(Path("/proc/self/fd").iterdir())),
                "learner/threads": threading.active_count(),
                "shared/files": len(list(Path("/dev/shm").iterdir())),
            }
            self.looks.append(look | self._written())
            if self.kill_every and time.monotonic() - self._killed > self.kill_every and actors:
                os.kill(actors[self.kills % len(actors)], signal.SIGKILL)
                self.kills, self._killed = self.kills + 1, time.monotonic()

    def _written(self) -> dict[str, float]:
        """What the run wrote since the last look."""
        path = self.run / "metrics.jsonl"
        if not path.exists():
            return {}
        with path.open() as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        rows = [json.loads(line) for line in whole.splitlines()]
        if not rows:
            return {}
        stale = [row["selection/staleness"] for row in rows]
        return {
            "step": rows[-1]["step"],
            "staleness/mean": round(statistics.mean(stale), 3),
            "staleness/most": max(stale),
            "actors/lost": rows[-1]["actors/lost"],
        }


def actor_pids() -> list[int]:
    """The processes that the server of processes has started."""
    server = forkserver._forkserver._forkserver_pid
    try:
        return [
            int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()
        ]
    except OSError:
        return []


def resident(pid: int) -> float:
    """Memory of a process in MB; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def flat(looks: list[dict[str, Any]]) -> bool:
    """Print how each quantity began and ended; whether nothing grew."""
    tenth = max(1, len(looks) // 10)
    holds = True
    print(f"{'':24}{'second tenth':>14}{'last tenth':>14}{'ratio':>8}")
    for name in (*LIMITS, "staleness/mean"):
        parts = (looks[tenth : 2 * tenth], looks[-tenth:])
        begin, end = (
            statistics.median([one[name] for one in part if name in one] or [0.0]) for part in parts
        )
        ratio = end / begin if begin else 1.0
        fits = ratio <= LIMITS.get(name, float("inf"))
        holds &= fits
        print(f"{name:24}{begin:14.2f}{end:14.2f}{ratio:8.3f}{'' if fits else '  GREW'}")
    most = max(one.get("staleness/most", 0.0) for one in looks)
    print(
        f"staleness, the most: {most:g} (bound: {STALENESS} when scored, and {WAITED} in the bank)"
    )
    return holds and most <= STALENESS + WAITED


LIMITS = {
    "learner/resident_mb": MEMORY_LIMIT,
    "actors/resident_mb": MEMORY_LIMIT,
    "learner/open_files": 1.0,
    "learner/threads": 1.0,
    "shared/files": 1.0,
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--count", type=int, default=1, help="actors")
    options.add_argument("--kill-every", type=float, default=0.0, help="seconds; 0: never")
    options.add_argument("--out", type=Path, default=Path("soak.json"))
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        watch = Watch(run, 60 * given.minutes, given.kill_every)
        looking = threading.Thread(target=watch.look, daemon=True)
        looking.start()
        try:
            training.start(settings(run, given.count), Surroundings(stop=watch.over))
        except training.Stopped as stopped:
            print(stopped)
        looking.join()
    looks = [look for look in watch.looks if "step" in look]
    about = {"minutes": given.minutes, "actors": given.count, "kills": watch.kills}
    given.out.write_text(json.dumps(about | {"looks": looks}, indent=1) + "\n")
    print(f"{looks[-1]['step']} steps in {given.minutes:g} minutes, {watch.kills} actors killed")
    return not flat(looks)


if __name__ == "__main__":
    sys.exit(main())
