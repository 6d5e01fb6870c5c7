"""The paper's claims, one command each.

    python benchmarks/paper --list
    python benchmarks/paper C1 C3 --preset cpu --runs runs/paper [--only ARM ...] [--part 1/3]
    python benchmarks/paper C1 --preset cpu --runs runs/paper --publish
    python benchmarks/paper --check

The same command goes on where it was stopped. Several processes with the same command share the
work, each run is made by one of them; with --part they keep to parts of their own.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paper import publish
from paper.arm import Arm, Places
from paper.claims import CLAIMS, Claim, Study
from paper.data import DATA, own, ready
from paper.follow import follow_ups
from paper.settings import PRESETS, Preset
from paper.store import BusyError, Store
from superbatch.cli.compare import PlanShare
from superbatch.cli.progress import watched
from superbatch.errors import ConfigError, Stopped, SuperbatchError
from superbatch.surroundings import Surroundings


@dataclass(frozen=True)
class Work:
    """What was asked for: claims at one preset, and where."""

    claims: tuple[Claim, ...]
    name: str
    preset: Preset
    store: Store
    studies: tuple[tuple[Study, ...], ...]
    """Of each claim."""
    seeds: tuple[int, ...]
    on: str
    only: tuple[str, ...]
    part: tuple[int, int]
    data: tuple[str, ...]
    """The data sets that were asked for by name, all of the preset's if none."""

    def runs(self) -> list[tuple[Arm, int]]:
        """Every run that can be told now, this part's, each once; baselines first, a seed after
        the other.
        """
        flat = [study for studies in self.studies for study in studies]
        arms = [arm for study in flat for arm in study.uniform]
        arms += [arm for study in flat for arm in study.others if self._wants(arm)]
        found = [(arm, seed) for seed in self.seeds for arm in arms]
        later = [
            arm
            for study in flat
            for arm in follow_ups(self.store, self.narrowed(study), self.seeds, self.preset.grid)
        ]
        found += [(arm, seed) for seed in self.seeds for arm in later]
        each: dict[str, tuple[Arm, int]] = {}
        for arm, seed in found:
            each.setdefault(arm.key(seed), (arm, seed))
        place, count = self.part
        return [(arm, seed) for arm, seed in each.values() if arm.part(seed, count) == place]

    def command(self, claim: Claim) -> str:
        """What trains and publishes ``claim`` as this does."""
        data = ["--data", *self.data] if self.data else []
        only = ["--only", *(f'"{name}"' for name in self.only)] if self.only else []
        words = [claim.name, f"--preset {self.name}", *data, *only, "--runs RUNS"]
        return " ".join(["python benchmarks/paper", *words])

    def _wants(self, arm: Arm) -> bool:
        return not self.only or arm.name in self.only

    def narrowed(self, study: Study) -> Study:
        """``study`` with the arms that were asked for."""
        return replace(study, others=tuple(arm for arm in study.others if self._wants(arm)))


def main(argv: Sequence[str] | None = None) -> int:
    """0: done; 1: stopped, or refused."""
    given = parser().parse_args(argv)
    if given.list:
        print(listed())
        return 0
    try:
        if given.check:
            return check(given)
        return carried_out(given)
    except SuperbatchError as error:
        print(f"paper: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python benchmarks/paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    made.add_argument("--list", action="store_true", help="all claims and presets")
    made.add_argument("--check", action="store_true", help="every claim, tiny, end to end")
    made.add_argument("--preset", choices=list(PRESETS), default="cpu")
    made.add_argument("--runs", type=Path, default=Path("runs/paper"))
    made.add_argument("--seeds", type=int, help="how many; the preset's own if not given")
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--only", nargs="+", default=[], metavar="ARM", help="these and uniform")
    made.add_argument("--data", nargs="+", default=[], metavar="DATA", help="these data sets only")
    made.add_argument("--part", default="1/1", help="2/3: the second of three parts")
    made.add_argument("--minutes", type=float, help="stop after so many, with a checkpoint")
    made.add_argument("--on", choices=["test", "validation"], default="test")
    made.add_argument("--plan", action="store_true", help="print the commands, run nothing")
    made.add_argument("--publish", action="store_true", help="run nothing; write json and figure")
    made.add_argument("--out", type=Path, default=Path("docs/results"), help="of --publish")
    made.add_argument("--data-path", default="", help="of the preset paper")
    made.add_argument("--eval-path", default="", help="of the preset paper")
    return made


def listed() -> str:
    """Every claim with what the paper says, and every preset."""
    lines = []
    for claim in CLAIMS.values():
        lines += [f"{claim.name}  {claim.paper}, {claim.where}", f"    {claim.says}"]
        lines.append(f"    compares {claim.compares}")
    lines.append("")
    for name, preset in PRESETS.items():
        sizes = f"{preset.learner} by {preset.actor}, {preset.steps} updates of {preset.batch}"
        lines.append(f"{name:<6} {sizes}: {preset.says}")
    return "\n".join(lines)


def work_of(given: argparse.Namespace) -> Work:
    """What ``given`` asks for. Raises ``ConfigError``."""
    preset = PRESETS[given.preset]
    names = given.claims or list(preset.data)
    for name in names:
        if name not in CLAIMS:
            raise ConfigError(f"there is no claim {name!r}; there are {', '.join(CLAIMS)}")
        if name not in preset.data:
            raise ConfigError(
                f"preset {given.preset} has no {name}; it has {', '.join(preset.data)}"
            )
    if preset.unrun and not (given.data_path or given.plan):
        raise ConfigError(
            f"preset {given.preset} is the original scale on data that is not public, and nobody "
            "here has run it; give --data-path (and --eval-path), or --plan to see its commands"
        )
    source = Path(os.environ.get("SUPERBATCH_DATA", "../shared/data"))
    store = Store(Places(given.runs, source))
    sets = {**DATA, "own": own(given.data_path or "DATA", given.eval_path)}
    claims = [CLAIMS[name] for name in names]
    chosen = [
        [one for one in claim.studies(preset, sets, given.on) if wanted(one, given.data)]
        for claim in claims
    ]
    flat = [study for studies in chosen for study in studies]
    refuse_unknown("--data", given.data, {d for claim in claims for d in preset.data[claim.name]})
    refuse_unknown("--only", given.only, {arm.name for study in flat for arm in study.arms})
    seeds = given.seeds or preset.seeds
    return Work(
        tuple(claims),
        given.preset,
        preset,
        store,
        tuple(map(tuple, chosen)),
        tuple(range(given.first_seed, given.first_seed + seeds)),
        given.on,
        tuple(given.only),
        part_of(given.part),
        tuple(given.data),
    )


def refuse_unknown(flag: str, names: Sequence[str], there: set[str]) -> None:
    """Raise ``ConfigError`` for names that are not among those that are there."""
    for name in names:
        if name not in there:
            raise ConfigError(f"{flag} {name}: there are {', '.join(sorted(there))}")


def wanted(study: Study, names: Sequence[str]) -> bool:
    return not names or study.data.name in names


def part_of(text: str) -> tuple[int, int]:
    """ "2/3" as numbers. Raises ``ConfigError``."""
    place, _, count = text.partition("/")
    if not (place.isdigit() and count.isdigit() and 1 <= int(place) <= int(count)):
        raise ConfigError(f"--part is {text!r} and should be like 1/3, the first of three")
    return int(place), int(count)


def carried_out(given: argparse.Namespace) -> int:
    """Plan, publish, or train what is left."""
    work = work_of(given)
    if given.plan:
        for arm, seed in work.runs():
            print(arm.command(seed))
        return 0
    if not given.publish:
        from superbatch.sources.open import opened_once  # slow to import

        with watched(quiet=False) as around, opened_once():
            train_all(work, until(around, given.minutes))
    for claim, whole in zip(work.claims, work.studies, strict=True):
        studies = [work.narrowed(study) for study in whole]
        found = publish.claim_numbers(
            work.store, claim, studies, work.seeds, (work.name, work.preset), work.on
        ) | {"command": work.command(claim)}
        print(publish.table(found))
        if given.publish:
            for path in publish.write(found, given.out):
                print(f"wrote {path}")
    return 0


def until(around: Surroundings, minutes: float | None) -> Surroundings:
    """``around``, stopped after ``minutes`` too."""
    if minutes is None:
        return around
    end, asked = time.monotonic() + 60 * minutes, around.stop
    return replace(around, stop=lambda: asked() or time.monotonic() >= end)


def train_all(
    work: Work, around: Surroundings, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Train what is left, then what that asks for, until nothing is; what another process is at is
    waited for.
    """
    for study in {study.data.name: study for one in work.studies for study in one}.values():
        ready(study.data, work.store.places.runs, work.store.places.data)
    began, done = time.monotonic(), 0
    while True:
        runs = work.runs()
        left = [(arm, seed) for arm, seed in runs if work.store.summary(arm, seed) is None]
        if not left:
            return
        before = done
        for place, (arm, seed) in enumerate(left):
            title = f"run {len(runs) - len(left) + place + 1}/{len(runs)} {arm.name} seed {seed}"
            share = PlanShare(title, done, done + len(left) - place, began)
            try:
                inside = replace(around, watch=share.watching(around.watch))
                work.store.train(arm, seed, inside)
                done += 1
            except BusyError:
                continue
            except Stopped as stopped:
                raise Stopped(f"stopped in {title}; the same command goes on") from stopped
        if done == before:
            if around.stop():
                raise Stopped("stopped while other processes train; the same command goes on")
            sleep(5.0)


def check(given: argparse.Namespace) -> int:
    """Every claim at the preset check, published where nothing is kept unless --out is given."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs" if given.runs == Path("runs/paper") else given.runs
        out = Path(scratch) / "out" if given.out == Path("docs/results") else given.out
        words = [*given.claims, "--preset=check", f"--runs={runs}", f"--out={out}"]
        for more in ([], ["--publish"]):
            code = main([*words, *more])
            if code:
                return code
    return 0
