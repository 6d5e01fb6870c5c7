"""Joint selection from 32,768 pairs against a plain matrix product; its peak memory.

    python benchmarks/joint.py [--rounds 1] [--super-batch 32768]

One product is of the super-batch with a sub-batch, B x b x 512, into memory that is there already.
What the choice cannot do without is every logit of a pair that is open with one that was chosen
before it, in both directions, for each role: that many products it is held against. Exits with 1
if it takes more than twice those, or more than 3 GB, the library itself included.
"""

import argparse
import resource
import sys
from functools import partial

import torch
from ratios import ratio, verdict
from torch.nn import functional

from superbatch.criterion import CRITERIA
from superbatch.joint import LogitFactors, joint_indices, logit_factors


WIDTH = 512
CHUNKS = 16
TIME_LIMIT = 2.0
MEMORY_LIMIT = 3e9


def made_factors(count: int, generator: torch.Generator) -> LogitFactors:
    towers = [functional.normalize(torch.randn(count, WIDTH, generator=generator)) for _ in "it"]
    return logit_factors(*towers, scale=10.0, bias=-10.0)


def products_needed(count: int, wanted: int) -> float:
    """For one role, in products of B x b: the last chunk is compared with nothing."""
    chunk = wanted // CHUNKS
    logits = sum(2 * chunk * (count - done * chunk) for done in range(1, CHUNKS))
    return logits / (count * wanted)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=1, help="timings of each, after a warm-up")
    options.add_argument("--super-batch", type=int, default=32_768, help="pairs to choose from")
    given = options.parse_args()
    count = given.super_batch
    generator = torch.Generator().manual_seed(0)
    factors = {role: made_factors(count, generator) for role in ("online", "reference")}

    def draw(criterion: str, loss: str, wanted: int) -> torch.Tensor:
        weights = CRITERIA[criterion].weights
        return joint_indices(
            factors, weights, wanted, loss=loss, chunks=CHUNKS, generator=generator
        )

    sizes = [round(count * share / CHUNKS) * CHUNKS for share in (0.2, 0.5)]
    for loss in ("sigmoid", "softmax"):
        draw("learnability", loss, sizes[-1])
    # On macOS in bytes, elsewhere in kilobytes. Before the products, whose output is large.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    holds = verdict(f"peak memory, {count:,} pairs, both roles, GB", peak / 1e9, MEMORY_LIMIT / 1e9)
    image, text = (functional.normalize(torch.randn(count, WIDTH)) for _ in "it")
    cases = [("hard", "sigmoid"), ("learnability", "sigmoid"), ("learnability", "softmax")]
    for wanted in sizes:
        product = partial(torch.mm, image, text[:wanted].T, out=torch.empty(count, wanted))
        for criterion, loss in cases:
            ours = partial(draw, criterion, loss, wanted)
            measured = ratio(ours, product, rounds=given.rounds)
            needed = len(CRITERIA[criterion].roles) * products_needed(count, wanted)
            what = f"{criterion}, {loss}, {wanted:,} of {count:,}"
            print(f"{what}, over one product: {measured:.3g}")
            holds &= verdict(f"{what}, over the {needed:.2f} needed", measured / needed, TIME_LIMIT)
    return not holds


if __name__ == "__main__":
    sys.exit(main())
