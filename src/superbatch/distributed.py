"""Several processes that train one model: who is here, and the rows of all.

Each process, a rank, brings its own rows of one large batch. Everything here is also right for
one process alone, where nothing is sent; so whoever calls it does not ask how many there are. What
says that it is for all must be called by every rank, in the same order.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, distributed

from superbatch.errors import ConfigError, SuperbatchError
from superbatch.types import Batch, size


T = TypeVar("T")


def world() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) where torch.distributed is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_main() -> bool:
    """Whether this is the rank that writes and speaks: rank 0, or the only process."""
    return world()[0] == 0


def from_main(function: Callable[[], T]) -> T:
    """What ``function`` gives rank 0, which alone calls it, on every rank; for all.

    The result must be picklable and small. A ``SuperbatchError`` of it is raised on every rank.
    """
    if world()[1] == 1:
        return function()
    said: list[Any] = [None, None]
    if is_main():
        try:
            said[0] = function()
        except SuperbatchError as error:
            said[1] = error
    distributed.broadcast_object_list(said, src=0, device=_small())
    if said[1] is not None:
        raise said[1]
    value: T = said[0]
    return value


def counts(count: int) -> list[int]:
    """The ``count`` of every rank, in the order of ranks; for all."""
    if world()[1] == 1:
        return [count]
    own = torch.tensor([count], dtype=torch.int64, device=_small())
    return [int(each) for each in _all(own, [1] * world()[1]).tolist()]


def any_rank(claim: bool) -> bool:
    """Whether ``claim`` holds on any rank; for all."""
    return any(counts(int(claim)))


def gather_objects(value: T) -> list[T]:
    """The ``value`` of every rank, picklable and small, in the order of ranks; for all."""
    if world()[1] == 1:
        return [value]
    found: list[Any] = [None] * world()[1]
    distributed.all_gather_object(found, value)
    return found


def united(numbers: Iterable[int]) -> list[int]:
    """The distinct ``numbers`` of all ranks, ascending; for all."""
    own = torch.tensor(sorted(numbers), dtype=torch.int64, device=_small())
    return sorted(set(gather_rows(own).tolist()))


def mean_over_ranks(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of the ranks' ``value``, which is without gradient; for all."""
    _, ranks = world()
    if ranks == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / ranks


def gather_rows(rows: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "m *rest"]:
    """The rows of every rank, in the order of ranks, however many each has; for all.

    Gradients go back to the rank that a row came from, summed over ranks. Where each rank's loss is
    its rows' share of the mean over all, times the number of ranks, and gradients are then averaged
    over ranks, as ``DistributedDataParallel`` does, that is the gradient of the mean over the whole
    batch. With as many rows on every rank, such a loss is the mean over the rank's own rows.
    """
    if world()[1] == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, counts(len(rows)))
    return gathered


def gather_batch(batch: Batch) -> Batch:
    """The examples of every rank, in the order of ranks, without gradients; for all."""
    if world()[1] == 1:
        return batch
    of_ranks = counts(size(batch))
    return {name: _all(batch[name].detach(), of_ranks) for name in sorted(batch)}


def share(count: int, place: int, places: int) -> slice:
    """Part ``place`` of ``count`` things in ``places`` parts: as equal as can be, in order."""
    return slice(count * place // places, count * (place + 1) // places)


def share_of_choice(chosen: Int[Tensor, " b"]) -> Int[Tensor, " m"]:
    """The part of ``chosen`` that this rank learns from; the parts of all ranks, in order, are it.

    One choice is made from the scores of the whole super-batch, the same on every rank (gathered
    scores, generators in the same state); then each rank takes its share of it. A rank that chose
    among its own rows alone would choose something else.

    Raises ``ConfigError`` where there is not one for each rank.
    """
    rank, ranks = world()
    if len(chosen) < ranks:
        raise ConfigError(
            f"a sub-batch of {len(chosen)} cannot be shared by {ranks} ranks; "
            f"make it {ranks} or more"
        )
    return chosen[share(len(chosen), rank, ranks)]


def _small() -> torch.device:
    """Where small numbers travel: the CPU where it can send, so that no other device waits."""
    if world()[1] == 1 or "cpu" in distributed.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _all(rows: Tensor, of_ranks: Sequence[int]) -> Tensor:
    """The rows of all ranks, who have ``of_ranks``; they are filled up, to be sent as equals."""
    most = max(of_ranks)
    filled = rows.new_zeros(most, *rows.shape[1:])
    filled[: len(rows)] = rows
    gathered = [torch.empty_like(filled) for _ in of_ranks]
    distributed.all_gather(gathered, filled)
    return torch.cat([part[:count] for part, count in zip(gathered, of_ranks, strict=True)])


# Not torch.distributed.nn: it is deprecated, and its successor has no gradient on every backend.
class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, of_ranks: Sequence[int]) -> Tensor:
        rank, _ = world()
        first = sum(of_ranks[:rank])
        ctx.own = slice(first, first + len(rows))
        return _all(rows, of_ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()  # contiguous, and not the graph's own
        distributed.all_reduce(total)
        return total[ctx.own], None
