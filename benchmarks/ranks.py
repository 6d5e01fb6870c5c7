"""Local selection against global: how much do the choices differ?

Several ranks either choose together from the whole super-batch, or each from its own part. Both are
made here from the same scores with the same noise, so that what differs is the place alone.

    python benchmarks/ranks.py

Scores are those of a short ``classact`` run on digits, of every super-batch of its second half, and
normal ones for super-batches as large as the paper's. "overlap" is the share of the global choice
that the local one makes too; "again" that of a second global choice with other noise; "gain" is how
much better the chosen are than all, in standard deviations (`kept_gain`).
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from superbatch import training
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.selection import gumbel, kept_gain


def chosen(noisy: Tensor, size: int, parts: int) -> Tensor:
    """The ``size`` best, or of each of equal parts its share of them."""
    best = noisy.view(parts, -1).topk(size // parts, dim=1).indices
    first = torch.arange(parts)[:, None] * (len(noisy) // parts)
    return (best + first).flatten()


def overlap(one: Tensor, other: Tensor) -> float:
    return float(torch.isin(one, other).double().mean())


def compared(scores: Tensor, size: int, parts: int, temperature: float, seed: int) -> list[float]:
    """Overlap of local and global, of global and global again, and both gains."""
    first, second = (
        scores if temperature == 0 else scores / temperature + gumbel(len(scores), generator)
        for generator in (torch.Generator().manual_seed(2 * seed + k) for k in range(2))
    )
    together, apart = chosen(first, size, 1), chosen(first, size, parts)
    again = chosen(second, size, 1)
    return [
        overlap(together, apart),
        overlap(together, again),
        float(kept_gain(scores, together)),
        float(kept_gain(scores, apart)),
    ]


def run_scores(steps: int, super_batch_size: int) -> list[Tensor]:
    """Scores of ``classact`` on digits, a tensor for each super-batch of the second half."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        config = recipe("classact").changed(
            steps=steps,
            out=str(out),
            data={"label_noise": 0.2},
            models={"learner": "mu-1000/4"},
            select={"super_batch_size": super_batch_size, "sub_batch_size": super_batch_size // 2},
        )
        training.start(config)
        parts = [pq.read_table(part) for part in RunFolder(out).parts("selection")]
    step = np.concatenate([part["step"].to_numpy() for part in parts])
    score = np.concatenate([part["score"].to_numpy() for part in parts])
    return [torch.from_numpy(score[step == one]) for one in range(steps // 2, steps)]


def normal_scores(super_batch_size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(10, super_batch_size, generator=generator))


def rows(name: str, found: list[Tensor], filter_ratios: tuple[float, ...]) -> Iterator[str]:
    size = len(found[0])
    for filter_ratio in filter_ratios:
        kept = round(size * (1 - filter_ratio))
        for temperature in (0.0, 1.0):
            for parts in (2, 4, 8, 64):
                if kept % parts or size % parts or kept < 4 * parts:
                    continue
                means = np.mean(
                    [
                        compared(scores, kept, parts, temperature, seed)
                        for seed, scores in enumerate(found)
                    ],
                    axis=0,
                )
                numbers = "  ".join(f"{value:7.3f}" for value in means)
                yield f"{name:8} {size:6} {kept:6} {temperature:4.0f} {parts:5}  {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    steps = parser.parse_args().steps
    print("scores        B      b    T ranks  overlap    again   gain, global  local")
    sets = [("classact", run_scores(steps, 128)), ("classact", run_scores(steps, 512))]
    sets += [("normal", normal_scores(2048)), ("normal", normal_scores(32768))]
    for name, found in sets:
        for row in rows(name, found, (0.5, 0.8125)):
            print(row)


if __name__ == "__main__":
    main()
