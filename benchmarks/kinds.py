"""The same recipe scored in one process, in others, and on Ray: is it the same run?

    python benchmarks/kinds.py --data ../shared/data/cifar10n --out runs/kinds
        [--recipe classact] [--steps 300] [--seeds 3] [--kinds process "process, in step" ray]

Trains on CIFAR-10N's worst human labels, each run an ordinary ``superbatch train`` in a process of
its own; what is finished is not run again, what was begun goes on. Prints final accuracies by kind,
whether every line of metrics.jsonl has the keys that inline's has, and in how many steps the same
was chosen as inline chose: in all of them where actors elsewhere are kept in step. All of it goes
to OUT/kinds.json. Exits with 1 if keys differ, if a kind in step chooses otherwise, or if a mean
accuracy is further from inline's than twice the larger standard deviation over seeds, where there
are several.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superbatch.chosen import read_chosen
from superbatch.run import RunFolder


BY_INLINE = "inline"
KINDS = {
    BY_INLINE: ("--actors.kind=inline",),
    "process": ("--actors.kind=process",),
    "process, in step": ("--actors.kind=process", "--actors.max-staleness=0"),
    "ray": ("--actors.kind=ray",),
}
SPREADS = 2.0
"""Standard deviations that a mean may be from inline's."""


@dataclass(frozen=True)
class Arm:
    """One run of the grid."""

    recipe: str
    kind: str
    seed: int
    steps: int

    @property
    def folder(self) -> str:
        """Its run folder."""
        kind = "-".join(self.kind.replace(",", "").split())
        return f"{self.recipe}-{kind}-{self.steps}-seed{self.seed}"

    def command(self, data: Path, out: Path) -> list[str]:
        """What comes after ``superbatch``."""
        return [
            *("train", self.recipe, *KINDS[self.kind]),
            *(f"--seed={self.seed}", f"--steps={self.steps}", f"--out={out / self.folder}"),
            *(f"--data.path={data / 'train.parquet'}", f"--data.eval-path={data / 'test.parquet'}"),
            *("--data.label=label_worse", "--data.truth=label", "--data.eval-label=label"),
            *("--data.flip", "--data.crop-padding=4"),
            *("--models.learner=mu-300/8", "--models.online=mu-2400/8"),
            *("--models.reference=mu-2400/8", "--device=cpu"),
            *("--select.super-batch-size=256", "--select.sub-batch-size=128"),
            f"--record.evaluate-every={max(1, self.steps // 6)}",
            f"--record.checkpoint-every={max(1, self.steps // 3)}",
        ]


def finished(arm: Arm, data: Path, out: Path) -> RunFolder:
    """The run of ``arm``, which is made if it is not there, in one thread each process."""
    path = out / arm.folder
    if not (path / "summary.json").is_file():
        begun = (path / "config.json").is_file()
        words = ["train", f"--resume={path}"] if begun else arm.command(data, out)
        subprocess.run(
            [sys.executable, "-m", "superbatch", *words],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    return RunFolder.open(path)


def shape(folder: RunFolder) -> dict[int, list[str]]:
    """The keys of each line of metrics.jsonl, by its step."""
    return {row["step"]: sorted(row) for row in folder.metrics()}


def same_choices(one: RunFolder, other: RunFolder) -> float:
    """The share of steps in which both learned from the same draws in the same order."""
    draws = [by_step(folder) for folder in (one, other)]
    return statistics.fmean(draws[0][step] == draws[1].get(step) for step in draws[0])


def by_step(folder: RunFolder) -> dict[int, list[int]]:
    """What each step learned from."""
    chosen = read_chosen(folder)
    found: dict[int, list[int]] = {}
    for step, draw in zip(chosen.steps.tolist(), chosen.draws.tolist(), strict=True):
        found.setdefault(step, []).append(draw)
    return found


def described(arm: Arm, folder: RunFolder, inline: RunFolder) -> dict[str, Any]:
    """What is published of one run."""
    summary = folder.summary()
    staleness = [row["selection/staleness"] for row in folder.metrics()]
    return {
        "kind": arm.kind,
        "seed": arm.seed,
        "accuracy": summary["val"]["accuracy"],
        "flops": summary["flops"],
        "seconds": summary["seconds"],
        "staleness": statistics.fmean(staleness),
        "same_keys": shape(folder) == shape(inline),
        "same_choices": same_choices(folder, inline),
    }


def spread(values: list[float]) -> float:
    """Their standard deviation; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(runs: list[dict[str, Any]], kinds: Iterable[str]) -> str:
    """A row a kind."""
    lines = [
        "| kind | accuracy | staleness | TFLOPs, full | same keys | steps with the same choice |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for kind in kinds:
        group = [run for run in runs if run["kind"] == kind]
        accuracy = [run["accuracy"] for run in group]
        flops = statistics.fmean(run["flops"]["full"] for run in group) / 1e12
        lines.append(
            f"| {kind} | {statistics.fmean(accuracy):.4f} ± {spread(accuracy):.4f} "
            f"| {statistics.fmean(run['staleness'] for run in group):.1f} | {flops:.2f} "
            f"| {'yes' if all(run['same_keys'] for run in group) else 'NO'} "
            f"| {statistics.fmean(run['same_choices'] for run in group):.0%} |"
        )
    return "\n".join(lines)


def wrong(runs: list[dict[str, Any]], kinds: Iterable[str]) -> list[str]:
    """What is not as it must be, a line each."""
    found = []
    inline = [run["accuracy"] for run in runs if run["kind"] == BY_INLINE]
    for kind in kinds:
        group = [run for run in runs if run["kind"] == kind]
        accuracy = [run["accuracy"] for run in group]
        away = abs(statistics.fmean(accuracy) - statistics.fmean(inline))
        if len(inline) > 1 and away > SPREADS * max(spread(accuracy), spread(inline)):
            found.append(f"{kind}: {away:.4f} from inline's accuracy, more than {SPREADS:g} sd")
        if not all(run["same_keys"] for run in group):
            found.append(f"{kind}: other keys in metrics.jsonl")
        if "in step" in kind and any(run["same_choices"] < 1 for run in group):
            found.append(f"{kind}: other choices than inline's")
    return found


def run(given: argparse.Namespace) -> int:
    """The grid, a seed after the other; 1 if something is wrong."""
    kinds = [kind for kind in KINDS if kind in {BY_INLINE, *given.kinds}]
    runs: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        arms = {kind: Arm(given.recipe, kind, seed, given.steps) for kind in kinds}
        folders = {kind: finished(arm, given.data, given.out) for kind, arm in arms.items()}
        runs += [described(arms[kind], folders[kind], folders[BY_INLINE]) for kind in kinds]
        print(table(runs, kinds), flush=True)
    command = arms[BY_INLINE].command(Path("DATA"), Path("OUT"))
    said = {"command": ["superbatch", *command], "runs": runs}
    (given.out / "kinds.json").write_text(json.dumps(said, indent=1) + "\n")
    found = wrong(runs, kinds)
    print(*(found or ["all as inline"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="classact")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    sys.exit(run(parser.parse_args()))
