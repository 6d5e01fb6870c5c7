"""Lots: the examples themselves, pixels and all, as the super-batches that they came in."""

from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from superbatch.types import Batch, concat, size, take


@final
class Lots:
    """Super-batches by the number of their arrival, shared with whoever brought them.

    Nothing is copied when one arrives. One of which less than half is left is copied to what is
    left when the next arrives, so that at most twice as many examples take up memory as are held.
    """

    def __init__(self) -> None:
        self._lots: dict[int, Batch] = {}
        self._left: dict[int, int] = {}

    def add(self, arrival: int, examples: Batch) -> None:
        """Hold ``examples``, which arrived as number ``arrival``."""
        if size(examples):
            self._lots[arrival] = examples
            self._left[arrival] = size(examples)

    def take(self, arrivals: Int[Tensor, " m"], places: Int[Tensor, " m"]) -> Batch:
        """The examples at ``places`` of the super-batches ``arrivals``, which must not fall."""
        each, counts = runs(arrivals)
        parts = torch.split(places, counts)
        found = [take(self._lots[arrival], part) for arrival, part in zip(each, parts, strict=True)]
        return found[0] if len(found) == 1 else concat(*found)

    def forget(self, arrivals: Int[Tensor, " m"]) -> None:
        """One example is gone for each of ``arrivals``, which must not fall."""
        for arrival, gone in zip(*runs(arrivals), strict=True):
            self._left[arrival] -= gone
            if self._left[arrival] == 0:
                del self._lots[arrival], self._left[arrival]

    def wasteful(self) -> list[int]:
        """The arrivals of which less than half is left."""
        return [n for n, left in self._left.items() if 2 * left < size(self._lots[n])]

    def shrink(self, arrival: int, places: Int[Tensor, " m"]) -> None:
        """Of super-batch ``arrival`` only ``places`` are left; they now lie at 0, 1, 2, ..."""
        self._lots[arrival] = take(self._lots[arrival], places)


def runs(values: Int[Tensor, " m"]) -> tuple[list[int], list[int]]:
    """The distinct values of an ascending tensor, and how often each comes."""
    each, counts = torch.unique_consecutive(values, return_counts=True)
    return each.tolist(), counts.tolist()
