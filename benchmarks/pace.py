"""Whether seconds follow FLOPs: every kind of run of the paper's claims, over its models alone.

    python benchmarks/pace.py [--steps 10] [--rounds 3] [--out docs/results/pace.json]

A step of each kind, and in the same minutes a scoring pass and an update of each of its models by
itself. What a step should take are the examples that its ledger counted at those seconds: so small
models may be slow for their FLOPs, but the loop around them may not. Exits with 1 where a step
takes over 1.15 times that.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from overhead import Measured, alone, measure, predicted
from ratios import verdict
from small_run import made_images, small_run

from superbatch.config import Config
from superbatch.files import write_json


LIMIT = 1.15
SIZES = {"super_batch_size": 640, "sub_batch_size": 128}
KINDS = {
    "uniform": ("uniform", "conv-32/2", "conv-4/2", "conv-8/2"),
    "hard": ("hard", "conv-32/2", "conv-4/2", "conv-8/2"),
    "easy_reference": ("easy_reference", "conv-32/2", "conv-4/2", "conv-8/2"),
    "learnability": ("classact", "conv-32/2", "conv-4/2", "conv-8/2"),
    "rho_loss": ("rho_loss", "conv-32/2", "conv-4/2", "conv-8/2"),
    "learnability, conv-16/2": ("classact", "conv-32/2", "conv-16/2", "conv-16/2"),
    "learnability, conv-2/2": ("classact", "conv-32/2", "conv-2/2", "conv-2/2"),
    "ClassAct-Online": ("classact_online", "conv-32/2", "conv-4/2", "conv-8/2"),
    "goal-wide, uniform": ("uniform", "conv-64/2", "conv-4/2", "conv-12/2"),
    "goal-wide, learnability": ("classact", "conv-64/2", "conv-4/2", "conv-12/2"),
}
"""Recipe, learner, online model and reference of each kind: C1 to C3 of preset cpu, and GOAL."""


def run_of(kind: str, data: Path, out: Path, steps: int) -> Config:
    """A short run of ``kind`` on random images."""
    name, *models = KINDS[kind]
    roles = dict(zip(("learner", "online", "reference"), models, strict=True))
    sizes = SIZES | ({"super_batch_size": SIZES["sub_batch_size"]} if name == "uniform" else {})
    return small_run(name, data, out, steps=steps).changed(models=roles, select=sizes)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=10, help="steps of each run, 5 or more")
    options.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    options.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    given = options.parse_args()
    found, holds = {}, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = made_images(folder)
        for kind in KINDS:
            took, expected = Measured(), []
            for number in range(given.rounds):
                config = run_of(kind, data, folder / f"{kind}-{number}", given.steps)
                measure(config, took)
                prices = alone(config.changed(select=SIZES), rounds=2)
                expected.append(predicted(took, prices))
            expected.sort()
            middle = expected[len(expected) // 2]
            found[kind] = {"models": KINDS[kind], "step": took.step, "models_alone": middle}
            holds &= verdict(f"{kind}: a step over its models alone", took.step / middle, LIMIT)
    if given.out is not None:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        about |= {"limit": LIMIT, **SIZES, "steps": given.steps, "rounds": given.rounds}
        write_json(given.out, about | {"seconds": found})
    return not holds


if __name__ == "__main__":
    sys.exit(main())
