"""Local selection: one memory bank for each part of a super-batch, as if each rank had its own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superbatch.bank import Bank, Draw
from superbatch.distributed import share
from superbatch.types import Batch, concat, take


class PartedBank:
    """``parts`` banks; each takes in its part of a super-batch and gives its share of a sub-batch.

    Draws say which part an example is in: those of ``super_batch_size`` in a row are a super-batch.
    ``bank(part, parts)`` makes the bank of a part. With as many parts as ranks each rank learns
    from what it has scored itself. All ranks hold all parts, so that a run goes on with the parts
    that it was started with on any number of ranks.
    """

    def __init__(
        self, bank: Callable[[int, int], Bank], *, parts: int, super_batch_size: int
    ) -> None:
        self._bank = bank
        self._super_batch_size = super_batch_size
        self._parts = [bank(part, parts) for part in range(parts)]

    def __len__(self) -> int:
        return sum(len(bank) for bank in self._parts)

    def expire(self, step: int) -> None:
        """What is too old to be learned from in update ``step`` leaves."""
        for bank in self._parts:
            bank.expire(step)

    def renew(self, step: int) -> int:
        """What is too old for update ``step`` and did not leave is scored again: how many."""
        return sum(bank.renew(step) for bank in self._parts)

    def wants(self, count: int) -> bool:
        """Whether a part wants a super-batch before ``count`` examples are drawn from all."""
        wanted = [share(count, part, len(self._parts)) for part in range(len(self._parts))]
        pairs = zip(self._parts, wanted, strict=True)
        return any(bank.wants(each.stop - each.start) for bank, each in pairs)

    def accepts(self) -> bool:
        """Whether one more super-batch may arrive: to every part."""
        return all(bank.accepts() for bank in self._parts)

    def add(self, examples: Batch, scores: Float[Tensor, " n"], weights_step: int = 0) -> None:
        """Take in scored examples, made with the weights of step ``weights_step``."""
        place = examples["draw"] % self._super_batch_size
        part_of = place * len(self._parts) // self._super_batch_size
        for part, bank in enumerate(self._parts):
            rows = torch.nonzero(part_of == part).flatten()
            bank.add(take(examples, rows), scores[rows], weights_step)

    def sample(self, count: int) -> Draw:
        """Draw ``count`` examples, in equal shares; a part that came out short gives what it has.

        Errors are those of the banks.
        """
        draws = []
        for part, bank in enumerate(self._parts):
            wanted = share(count, part, len(self._parts))
            draws.append(bank.sample(min(wanted.stop - wanted.start, len(bank))))
        before = [0]
        for draw in draws:
            before.append(before[-1] + len(draw.scores))
        return Draw(
            concat(*(draw.examples for draw in draws)),
            torch.cat([draw.index + first for draw, first in zip(draws, before, strict=False)]),
            torch.cat([draw.scores for draw in draws]),
            torch.cat([draw.weights_step for draw in draws]),
        )

    def state_dict(self) -> dict[str, object]:
        """Those of the parts."""
        return {"parts": [bank.state_dict() for bank in self._parts]}

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Hold what the bank that wrote ``state`` held, in its parts."""
        parts = len(state["parts"])
        self._parts = [self._bank(part, parts) for part in range(parts)]
        for bank, of_part in zip(self._parts, state["parts"], strict=True):
            bank.load_state_dict(of_part, read)
