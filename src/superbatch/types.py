"""The words that every module shares.

Axes in shapes: ``B`` super-batch, ``b`` sub-batch, ``n`` any count, ``C`` classes.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor


Role = Literal["learner", "online", "reference"]
"""Who a model is: the one that is paid for, or one of the two that score (paper, section 3)."""

ROLES: tuple[Role, ...] = get_args(Role)

Batch = Mapping[str, Tensor]
"""Fields that share a leading axis ``n``. Always ``"id"``: Int64[n], the same example in any run;
from our own sources also ``"draw"``: Int64[n], the position in the run's endless uniform stream."""

LossSource = Callable[[Batch], Float[Tensor, " n"]]
"""One act loss per example: a learner, a frozen model, or a table of losses kept on disk."""

View = Callable[[Batch], Batch]
"""The same examples, seen differently: augmented, or left as they are."""

Metrics = Mapping[str, float | int]
"""Numbers by name, ``role/quantity``; counts are whole."""


def size(batch: Batch) -> int:
    """How many examples ``batch`` holds."""
    return next(iter(batch.values())).shape[0]


def take(batch: Batch, index: Int[Tensor, " m"]) -> Batch:
    """The rows ``index`` of every field, in that order, as a new batch."""
    return {name: field.index_select(0, index.to(field.device)) for name, field in batch.items()}


def small_fields(batch: Batch) -> Batch:
    """The fields of one number an example: ids, draws, labels, but no pixels and no tokens."""
    return {name: field for name, field in batch.items() if field.ndim == 1}


def concat(*batches: Batch) -> Batch:
    """The rows of all ``batches`` in order; every one must have the same fields."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """``batch`` with every field on ``device``."""
    return {name: field.to(device, non_blocking=True) for name, field in batch.items()}
