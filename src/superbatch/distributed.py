"""Several processes that train one model: who is here, and the rows of all.

Each process, a rank, brings its own rows of one large batch. Everything here is also right for
one process alone, where nothing is sent.
"""

from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, distributed

from superbatch.errors import ConfigError, DataError


def world() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) where torch.distributed is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather_rows(rows: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "m *rest"]:
    """The rows of every rank, in the order of ranks; every rank must call it, with as many rows.

    Gradients go back to the rank that a row came from, summed over ranks. Where each rank's loss is
    the mean over its own rows and gradients are then averaged over ranks, as
    ``DistributedDataParallel`` does, that is the gradient of the mean over the whole batch.

    Raises ``DataError``, on every rank, where ranks bring different numbers of rows.
    """
    _, ranks = world()
    if ranks == 1:
        return rows
    counts = _all(torch.tensor([len(rows)], device=rows.device)).tolist()
    if len(set(counts)) > 1:
        raise DataError(
            f"the ranks bring {counts} rows; every rank must bring the same number, so leave out "
            "a batch that came out short, or fill it up, on all ranks alike"
        )
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def share_of_choice(chosen: Int[Tensor, " b"]) -> Int[Tensor, " m"]:
    """The part of ``chosen`` that this rank learns from; the parts of all ranks, in order, are it.

    One choice is made from the scores of the whole super-batch, the same on every rank (gathered
    scores, generators in the same state); then each rank takes its share of it. A rank that chose
    among its own rows alone would choose something else.

    Raises ``ConfigError`` where the ranks cannot have equal shares.
    """
    rank, ranks = world()
    share, rest = divmod(len(chosen), ranks)
    if rest:
        raise ConfigError(
            f"a sub-batch of {len(chosen)} cannot be shared equally by {ranks} ranks; "
            f"make it {share * ranks or ranks} or {(share + 1) * ranks}"
        )
    return chosen[rank * share : (rank + 1) * share]


def _all(rows: Tensor) -> Tensor:
    _, ranks = world()
    gathered = [torch.empty_like(rows) for _ in range(ranks)]
    distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


# Not torch.distributed.nn: it is deprecated, and its successor has no gradient on every backend.
class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return _all(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()  # contiguous, and not the graph's own
        distributed.all_reduce(total)
        rank, _ = world()
        return total[rank * ctx.count : (rank + 1) * ctx.count]
