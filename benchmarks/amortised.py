"""Score once, train often: does what was amortised keep the gain, and at what cost?

Per seed, on CIFAR-10N's worst human labels: (a) ClassAct live, (b) with a table for its
reference, (c) the order of (a) replayed without scoring, (d) an order distilled from another seed
and a smaller learner, (e) uniform. Each is an ordinary command; what is there is not made again.

    python benchmarks/amortised.py --data ../shared/data/cifar10n --out runs/amortised --seed 0
"""

import argparse
from pathlib import Path

from superbatch.cli import main


SIZES = ["--models.learner=mu-300/8", "--models.online=mu-2400/8", "--models.reference=mu-2400/8"]


def made(out: Path, *command: str) -> Path:
    """``out``, which ``command`` makes unless it is there."""
    done = out / "summary.json" if command[0] == "train" else out
    if not done.exists() and main([*command, f"--out={out}"]) != 0:
        raise SystemExit(f"failed: superbatch {' '.join(command)}")
    return out


def run(data: Path, out: Path, seed: int, steps: int) -> None:
    """The five, and what they need."""
    common = [
        f"--data.path={data / 'train.parquet'}",
        f"--data.eval-path={data / 'test.parquet'}",
        *("--data.label=label_worse", "--data.truth=label", "--data.eval-label=label"),
        *("--data.flip", "--data.crop-padding=4"),
    ]
    training = [
        *common,
        *SIZES,
        f"--steps={steps}",
        *("--select.super-batch-size=256", "--select.sub-batch-size=128"),
        f"--record.evaluate-every={steps // 6}",
        f"--record.checkpoint-every={steps}",
        "--score-view=plain",
    ]

    def trained(name: str, recipe: str, *flags: str, seed: int = seed) -> Path:
        command = ["train", recipe, *training, f"--seed={seed}", *flags]
        return made(out / f"{name}-seed{seed}", *command)

    trained("uniform", "uniform")
    live = trained("live", "classact")
    reference = live / "reference"
    scored = ["score", f"--model={reference}", *common[:1], *common[2:]]
    table = made(out / f"table-seed{seed}.parquet", *scored)
    trained("table", "classact", f"--reference={table}")
    order = made(out / f"order-seed{seed}.parquet", "order", f"--run={live}")
    trained("order", "uniform", f"--data.order={order}")
    small = trained("small", "classact", "--models.learner=mu-1000/8", seed=seed + 10)
    distilled = ["order", f"--run={small}", "--kind=policy"]
    other = made(out / f"distilled-seed{seed}.parquet", *distilled)
    trained("distilled", "uniform", f"--data.order={other}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    run(given.data, given.out, given.seed, given.steps)
