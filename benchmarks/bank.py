"""The memory bank of 1e6 examples: what a draw, an arrival and a renewal cost.

Draws against ``torch.topk`` of the same scores (limit: 3 x), arrivals in a large bank against
arrivals in a small one (limit: 2 x), and, where torchrl is installed (it is no dependency), all
three against its prioritised replay buffer on the same load.
"""

import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable

import torch
from ratios import ratio, seconds, verdict

from superbatch.bank import MemoryBank
from superbatch.types import Batch


CAPACITY = 1_000_000
SUPER_BATCH_SIZE = 32_768
SUB_BATCH_SIZE = 16_384
ROUNDS = 15


class Source:
    """Super-batches of names and scores, one after the other."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.draw = 0
        self.number = 0

    def next(self, count: int = SUPER_BATCH_SIZE) -> tuple[Batch, torch.Tensor, int]:
        """The next ``count``, their scores, and the step of the weights that made them."""
        draw = torch.arange(self.draw, self.draw + count)
        self.draw += count
        self.number += 1
        return {"id": draw, "draw": draw}, torch.randn(count, generator=self.generator), self.number


def full_bank(source: Source, capacity: int = CAPACITY, **settings: object) -> MemoryBank:
    bank = MemoryBank(
        capacity,
        generator=torch.Generator().manual_seed(1),
        keep_examples=False,
        **settings,  # type: ignore[arg-type]
    )
    while len(bank) < capacity:
        bank.add(*source.next())
    return bank


def draws_cost_little_more_than_topk() -> bool:
    scores = torch.randn(CAPACITY, generator=torch.Generator().manual_seed(2))
    holds = True
    whole = full_bank(Source(), max_times_sampled=10**9)
    source = Source()
    pierced = full_bank(source)
    for _ in range(40):  # until what was drawn lies everywhere among what was not
        pierced.sample(SUB_BATCH_SIZE)
        pierced.add(*source.next())
    for name, bank in (("whole", whole), ("with what was drawn taken out", pierced)):
        measured = ratio(
            lambda bank=bank: bank.sample(SUB_BATCH_SIZE),
            lambda: torch.topk(scores, SUB_BATCH_SIZE),
            rounds=ROUNDS,
        )
        holds &= verdict(f"draw 16,384 of 1e6 ({name}), over torch.topk", measured, 3.0)
    return holds


def arrivals_cost_the_same_in_any_bank() -> bool:
    large, small = Source(), Source()
    million = full_bank(large)
    few = full_bank(small, 2 * SUPER_BATCH_SIZE)
    measured = ratio(
        lambda: [million.add(*large.next()) for _ in range(40)],  # so that rows are closed up too
        lambda: [few.add(*small.next()) for _ in range(40)],
        rounds=5,
    )
    return verdict("an arrival in a bank of 1e6, over one in a bank of 65,536", measured, 2.0)


def rate(count: int, act: Callable[[], object]) -> float:
    """Examples a second when ``act`` handles ``count``: the median, after a warm-up."""
    act()
    return count / statistics.median(seconds(act) for _ in range(ROUNDS))


def our_rates() -> dict[str, float]:
    source = Source()
    bank = full_bank(source, max_times_sampled=10**9)
    rates = {"arrive": rate(SUPER_BATCH_SIZE, lambda: bank.add(*source.next()))}
    rates["drawn"] = rate(SUB_BATCH_SIZE, lambda: bank.sample(SUB_BATCH_SIZE))
    rates["get new scores"] = rate(SUPER_BATCH_SIZE, renewal())
    return rates


def renewal() -> Callable[[], object]:
    """Of one super-batch after the other; each is the oldest when its turn comes."""
    source = Source()
    scores, count = torch.randn(SUPER_BATCH_SIZE), CAPACITY // SUPER_BATCH_SIZE
    bank = full_bank(
        source,
        count * SUPER_BATCH_SIZE,
        max_staleness=count - 1,
        score_again=lambda held: scores,
    )
    steps = itertools.count(count + 2)

    def renew() -> None:
        assert bank.renew(next(steps)) == SUPER_BATCH_SIZE

    return renew


def torchrl_rates() -> dict[str, float]:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(
        alpha=1.0, beta=0.0, storage=LazyTensorStorage(CAPACITY), batch_size=SUB_BATCH_SIZE
    )
    source = Source()

    def arrive() -> None:
        examples, scores, number = source.next()
        steps = torch.full((SUPER_BATCH_SIZE,), number)
        held = TensorDict(dict(examples) | {"weights_step": steps}, batch_size=[SUPER_BATCH_SIZE])
        index = buffer.extend(held)
        buffer.update_priority(index, scores.exp())  # softmax at temperature 1

    while len(buffer) < CAPACITY:
        arrive()
    index = torch.randperm(CAPACITY)[:SUPER_BATCH_SIZE]
    priority = torch.rand(SUPER_BATCH_SIZE)
    return {
        "arrive": rate(SUPER_BATCH_SIZE, arrive),
        "drawn": rate(SUB_BATCH_SIZE, buffer.sample),
        "get new scores": rate(SUPER_BATCH_SIZE, lambda: buffer.update_priority(index, priority)),
    }


def beside_torchrl() -> None:
    ours = our_rates()
    if importlib.util.find_spec("torchrl") is None:
        print("torchrl is not installed: pip install torchrl to see its buffer beside ours")
        for name, value in ours.items():
            print(f"examples that {name}, a second: {value:.3g}")
        return
    theirs = torchrl_rates()
    for name, value in ours.items():
        print(
            f"examples that {name}, a second: {value:.3g}; torchrl {theirs[name]:.3g}; "
            f"ratio {value / theirs[name]:.2f}"
        )


def main() -> int:
    holds = draws_cost_little_more_than_topk()
    holds &= arrivals_cost_the_same_in_any_bank()
    beside_torchrl()
    return not holds


if __name__ == "__main__":
    sys.exit(main())
