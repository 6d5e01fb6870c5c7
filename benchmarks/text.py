"""SST-2 and CoLA with a small BERT from random weights: uniform, RHO-LOSS and ClassAct.

    python benchmarks/text.py --data ../shared/data --out runs/text [--seeds 3] [--only cola]

Every run is one ordinary ``superbatch train`` in a process of its own; what is finished is not run
again, what was begun goes on. Then uniform runs again with as many FLOPs, everything counted, as
each recipe spent. Prints the settings and the table, and writes them to OUT/text.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


STEPS, BATCH = 500, 32
SETTINGS = (
    *("--task=text", "--models.learner=bert-tiny"),
    *("--models.online=bert-2/64", "--models.reference=bert-2/64"),
    *(f"--select.super-batch-size={2 * BATCH}", f"--select.sub-batch-size={BATCH}"),
    *("--optimise.learning-rate=0.001", "--optimise.warmup-fraction=0.1"),
    "--record.selection=none",
)
DATA = {
    "sst2": ("sst2_train.tsv.gz", "sst2_dev.tsv.gz", "sentence", "label", 48),
    "cola": ("cola_train.tsv.gz", "cola_dev.tsv.gz", "3", "1", 24),
}
"""Where to train and to evaluate, the columns of texts and labels, the context."""
HALF = "--data.holdout-fraction=0.5"
ARMS = {
    "uniform": ("uniform", HALF),
    "rho_loss": ("rho_loss", HALF),
    "classact": ("classact", HALF),
    "uniform, all data": ("uniform", "--data.holdout-fraction=0"),
}
"""Recipes. All learn the same half, since RHO-LOSS holds the other out; one learns all of it."""


@dataclass(frozen=True)
class Arm:
    """One run of the grid."""

    data: str
    name: str
    seed: int
    steps: int = STEPS

    @property
    def folder(self) -> str:
        """Its run folder."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.name)
        return f"{self.data}-{words}-{self.steps}-seed{self.seed}"

    def command(self, root: Path, out: Path) -> list[str]:
        """What comes after ``superbatch``."""
        train, dev, text, label, context = DATA[self.data]
        recipe, *flags = ARMS[self.name.partition(" at ")[0]]
        texts = root / "glue_text"
        return [
            *("train", recipe, *flags, *SETTINGS, f"--seed={self.seed}", f"--steps={self.steps}"),
            *(f"--data.path={texts / train}", f"--data.eval-path={texts / dev}"),
            *(f"--data.text={text}", f"--data.label={label}", f"--data.eval-label={label}"),
            f"--data.vocabulary={root / 'tokenizers' / 'bert-base-uncased-vocab.txt'}",
            *(f"--data.context={context}", f"--record.evaluate-every={max(1, self.steps // 8)}"),
            *(f"--record.checkpoint-every={self.steps // 2}", f"--out={out / self.folder}"),
        ]


def finished(arm: Arm, root: Path, out: Path) -> dict[str, Any]:
    """The summary of ``arm``, which is run if it has not been, with its processor's seconds."""
    folder = out / arm.folder
    if not (folder / "summary.json").is_file():
        begun = (folder / "config.json").is_file()
        words = ["train", f"--resume={folder}"] if begun else arm.command(root, out)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(
            [sys.executable, "-m", "superbatch", *words],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        # of a run that went on, only the last part is known
        (folder / "processor.json").write_text(json.dumps(None if begun else seconds))
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary | {"processor": json.loads((folder / "processor.json").read_text())}


def at_equal_flops(arm: Arm, summary: dict[str, Any], uniform: dict[str, Any]) -> Arm:
    """Uniform for as many updates as spend what ``arm`` spent in full."""
    steps = round(arm.steps * summary["flops"]["full"] / uniform["flops"]["full"])
    return replace(arm, name=f"uniform at {arm.name}'s FLOPs", steps=steps)


def described(arm: Arm, summary: dict[str, Any], out: Path) -> dict[str, Any]:
    """What is published of one run."""
    lines = (out / arm.folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for line in lines if "val/accuracy" in (row := json.loads(line))]
    names = ("step", "val/accuracy", "val/matthews", "flops/paper", "flops/full")
    return {
        "data": arm.data,
        "arm": arm.name,
        "seed": arm.seed,
        "steps": arm.steps,
        "accuracy": summary["val"]["accuracy"],
        "matthews": summary["val"]["matthews"],
        "per_class": summary["val"]["per_class"],
        "flops": summary["flops"],
        "left_out": summary["left_out"],
        "processor_seconds": summary["processor"],
        "curve": [[row[name] for name in names] for row in rows],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds, a row an arm."""
    lines = [
        "| data | | updates | accuracy | Matthews | TFLOPs, paper / full | seconds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for data, arm in dict.fromkeys((run["data"], run["arm"]) for run in runs):
        group = [run for run in runs if (run["data"], run["arm"]) == (data, arm)]

        def mean(values: list[float], form: str) -> str:
            spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
            return f"{statistics.fmean(values):{form}}{spread}"

        seconds = [run["processor_seconds"] for run in group if run["processor_seconds"]]
        paper, full = (
            statistics.fmean(run["flops"][name] for run in group) / 1e12
            for name in ("paper", "full")
        )
        lines.append(
            f"| {data} | {arm} | {round(statistics.fmean(run['steps'] for run in group))} "
            f"| {mean([run['accuracy'] for run in group], '.4f')} "
            f"| {mean([run['matthews'] for run in group], '.3f')} "
            f"| {paper:.2f} / {full:.2f} | {statistics.fmean(seconds or [0]):.0f} |"
        )
    return "\n".join(lines)


def run(root: Path, out: Path, seeds: int, names: list[str]) -> None:
    """The whole grid, a seed after the other, then the uniform runs at equal FLOPs."""
    print("settings:", *SETTINGS, flush=True)
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for data in names:
            arms = {name: Arm(data, name, seed) for name in ARMS}
            found = {name: finished(arm, root, out) for name, arm in arms.items()}
            for name in ("rho_loss", "classact"):
                equal = at_equal_flops(arms[name], found[name], found["uniform"])
                arms[equal.name], found[equal.name] = equal, finished(equal, root, out)
            runs += [described(arm, found[name], out) for name, arm in arms.items()]
            print(table(runs), flush=True)
    said = {
        "settings": SETTINGS,
        "arms": ARMS,
        "data": DATA,
        "device": f"{platform.processor() or platform.machine()}, one thread a run",
        "runs": runs,
    }
    (out / "text.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=list(DATA))
    given = parser.parse_args()
    run(given.data, given.out, given.seeds, [given.only] if given.only else list(DATA))
