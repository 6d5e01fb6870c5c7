"""What scoring beside the learner costs the learner that has a core of its own: next to nothing.

    python benchmarks/overlap.py [--steps 30] [--rounds 3] [--cores 0 1]

The learner keeps to the first core and the actor to the second. Runs in turn ``uniform``,
``classact`` with one actor beside the learner, and ``classact`` in one process, and takes medians
over their steps. The learner's process trains the online model as well; the ratio without that is
printed too. Exits with 1 if selection beside the learner makes fewer than 0.95 of the updates a
second that uniform training makes, or if publishing weights takes over 1.5 times a plain copy.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from ratios import ratio, verdict
from small_run import LEARNER, made_images, small_run

from superbatch import build, training
from superbatch.actors.actor import weights_of
from superbatch.actors.weights import WeightBoard
from superbatch.config import Config
from superbatch.problems import problem_of
from superbatch.run import RunFolder
from superbatch.surroundings import Status, Surroundings


UPDATES_LIMIT = 0.95
COPY_LIMIT = 1.5
ACTOR = "mu-2400/8"
LEFT_OUT = 5
"""Steps at the beginning that are not measured: actors start, and fill what lies ready."""


@dataclass
class Measured:
    """Seconds of one way to train: whole steps, of the learner's core, and by phase."""

    steps: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """Of a whole step, its median."""
        return statistics.median(self.steps)

    @property
    def processor(self) -> float:
        """Of the learner's process in a step, its median: what else runs here counts for less."""
        return statistics.median(self.processor_seconds)

    def phase(self, name: str) -> float:
        """Of one phase in a step, its median."""
        return statistics.median(self.phases.get(name, [0.0]))


def measure(config: Config, into: Measured) -> None:
    """Run ``config`` and add what its steps took."""
    times: list[tuple[float, float, dict[str, float]]] = []

    def watch(status: Status) -> None:
        if status.title == config.recipe:
            times.append((time.perf_counter(), time.process_time(), dict(run.clock.seconds)))

    folder = RunFolder(Path(str(config.out)))
    run = training.Run(config, problem_of(config), folder, Surroundings(watch=watch))
    folder.create(config.model_dump(mode="json"), {})
    run.finish()
    # The last step is also evaluated: it ends where the one before it did.
    for before, after in pairwise(times[LEFT_OUT:-1]):
        into.steps.append(after[0] - before[0])
        into.processor_seconds.append(after[1] - before[1])
        for name, seconds in after[2].items():
            into.phases.setdefault(name, []).append(seconds - before[2].get(name, 0.0))


def cost_of_publishing(config: Config) -> float:
    """Publishing the learner's weights, over copying them from tensor to tensor."""
    learner = build.learner_of(config, "learner", problem_of(config), torch.device("cpu"))
    weights = weights_of({"learner": learner})
    board = WeightBoard(0, weights)
    room = {name: torch.zeros_like(tensor) for name, tensor in weights["learner"].items()}

    def copy() -> None:
        for name, tensor in learner.model.state_dict().items():
            room[name].copy_(tensor)

    return ratio(lambda: board.publish(1, weights_of({"learner": learner})), copy, rounds=200)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=30, help="steps of each run, 10 or more")
    options.add_argument("--rounds", type=int, default=3, help="runs of each")
    options.add_argument("--cores", type=int, nargs=2, default=[0, 1], help="learner's, actor's")
    given = options.parse_args()
    os.sched_setaffinity(0, {given.cores[0]})
    torch.set_num_threads(1)
    beside = {"kind": "process", "cores": [given.cores[1]]}
    ways = {
        "uniform": ("uniform", {}),
        "classact, actor beside": ("classact", beside),
        "classact, one process": ("classact", {"kind": "inline"}),
    }
    measured = {way: Measured() for way in ways}
    with tempfile.TemporaryDirectory() as name:
        data = made_images(Path(name))
        for number in range(given.rounds):
            for way, (recipe, actors) in ways.items():
                out = Path(name) / f"{way}-{number}"
                config = small_run(recipe, data, out, steps=given.steps).changed(
                    actors=actors,
                    models={"learner": LEARNER, "online": ACTOR, "reference": ACTOR},
                    record={"checkpoint_every": 10**6},
                )
                measure(config, measured[way])
        publishing = cost_of_publishing(config)
    report(measured)
    uniform, actor = measured["uniform"], measured["classact, actor beside"]
    holds = uniform.step / actor.step >= UPDATES_LIMIT
    print(
        f"updates a second beside an actor, over uniform: {uniform.step / actor.step:.3f} "
        f"(limit {UPDATES_LIMIT}) {'ok' if holds else 'TOO FEW'}"
    )
    return not (verdict("publishing weights over a copy", publishing, COPY_LIMIT) and holds)


def report(measured: dict[str, Measured]) -> None:
    """A line for each way: its step, against uniform, and what the learner's process did in it."""
    uniform, core = measured["uniform"].step, measured["uniform"].processor
    for way, of in measured.items():
        phases = ", ".join(f"{name} {of.phase(name):.3f}" for name in of.phases if of.phase(name))
        alone = uniform / (of.step - of.phase("online"))
        print(f"{way}: {of.step:.3f} s a step, {of.processor:.3f} s of its core")
        print(
            f"  updates a second, over uniform's: {uniform / of.step:.3f}; by seconds of its core "
            f"{core / of.processor:.3f}; without the online model's {alone:.3f}"
        )
        print(f"  {phases}")


if __name__ == "__main__":
    sys.exit(main())
