"""Choosing from 1e6 scores against a bare ``torch.topk`` of the same tensor (limit: 3 x)."""

import sys

import torch
from ratios import ratio, verdict

from superbatch.selection import sample_indices


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1_000_000, generator=generator)
    holds = True
    for size in (16_384, 500_000):
        measured = ratio(
            lambda size=size: sample_indices(scores, size, generator=generator),
            lambda size=size: torch.topk(scores, size),
        )
        holds &= verdict(f"choose {size:,} of 1e6, over torch.topk", measured, 3.0)
    return not holds


if __name__ == "__main__":
    sys.exit(main())
