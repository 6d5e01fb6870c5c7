"""Pairs that come twice in a batch: for a contrastive loss they are false negatives."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from superbatch.types import Batch, size, take


_SAME = ("id", "image_id", "text")


def duplicates(batch: Batch) -> Bool[Tensor, " n"]:
    """Which examples have the ``"id"``, the ``"image_id"`` or the ``"text"`` of an earlier one.

    Of those fields the ones that ``batch`` has count. So the first of several equals is no
    duplicate, and what is left without the duplicates has none.
    """
    found = torch.zeros(size(batch), dtype=torch.bool, device=batch["id"].device)
    for name in _SAME:
        if name in batch:
            found |= _came_before(batch[name])
    return found


def without_duplicates(batch: Batch) -> Batch:
    """``batch`` without its `duplicates`, in the same order; a ``View``."""
    return take(batch, torch.nonzero(~duplicates(batch)).flatten())


def _came_before(values: Int64[Tensor, "n ..."]) -> Bool[Tensor, " n"]:
    """Which rows of ``values`` equal an earlier row."""
    _, group = torch.unique(values, dim=0, return_inverse=True)
    index = torch.arange(len(values), device=values.device)
    first = index.new_full((len(values),), len(values))
    first.scatter_reduce_(0, group, index, reduce="amin")
    return first[group] < index
