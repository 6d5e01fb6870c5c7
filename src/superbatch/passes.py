"""A model's passes over a batch: all at once or in parts, and, for scoring, without a trace.

Scoring leaves no trace: every module's mode and the global random state are put back.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from superbatch.distributed import counts
from superbatch.errors import ConfigError
from superbatch.sharding import is_sharded
from superbatch.tasks import Task
from superbatch.tasks.pixels import answer
from superbatch.types import Batch, LossSource, size, take


T = TypeVar("T")

ROWS_ON_CPU = 128
"""More do not fit its caches: of 32 pixels, ConvNets take up to twice as long for each row of 512,
ViTs 1.4 times. Fewer keep it less busy."""


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Within: eval mode, no gradients. After: every module's mode and random state as before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class InParts(nn.Module):
    """``model`` run on at most ``part_size`` rows at a time; 0: on all at once.

    Gives what ``model`` gives for all rows, a tensor or a tuple of them; outputs without axes are
    those of the first part. Images of bytes are brought to [-1, 1] part by part. With gradients on,
    each part keeps only its inputs and outputs, and is run again for its gradient with the random
    numbers that it had: the exact gradient of any loss of all rows, at the memory of one part, for
    one more forward pass (Gao et al. 2021, "GradCache"). Batch norm sees each part by itself, and
    its averages take it in once. A model in shards over several ranks runs on as many parts on
    each of them.
    """

    takes_bytes = True

    def __init__(self, model: nn.Module, part_size: int) -> None:
        super().__init__()
        self.model = model
        self.part_size = part_size
        self._together = is_sharded(model)

    def forward(self, *inputs: Tensor) -> Any:
        """The model's output for ``inputs``, which share their leading axis."""
        rows = len(inputs[0])
        of_ranks = counts(rows) if self._together and self.part_size else [rows]
        sizes = part_sizes(rows, self.part_size, of_ranks)
        if len(sizes) == 1:
            return self._answer(*inputs)
        run = self._answer
        if torch.is_grad_enabled():
            run = partial(
                checkpoint,
                self._answer,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), averages_kept(self.model)),
            )
        parts = zip(*(torch.split(each, sizes) for each in inputs), strict=True)
        outputs = [run(*part) for part in parts]
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs)
        if isinstance(outputs[0], tuple):
            return tuple(_joined(pieces) for pieces in zip(*outputs, strict=True))
        raise ConfigError(
            "a model that runs in parts must give a tensor or a tuple of tensors; "
            f"this one gives {type(outputs[0]).__name__}"
        )

    def _answer(self, *inputs: Tensor) -> Any:
        return answer(self.model, *inputs)


@contextmanager
def averages_kept(model: nn.Module) -> Iterator[None]:
    """Within: batch norm in train mode leaves its running averages as they are."""
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, seen) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if seen is None else seen.clone()
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = seen


def _joined(pieces: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(pieces) if pieces[0].ndim else pieces[0]


def traceless(
    model: nn.Module,
    function: Callable[[nn.Module, Batch], T],
    *,
    micro_batch_size: int = 0,
    bf16: bool = False,
) -> Callable[[Batch], T]:
    """``function`` of ``model`` and a batch, without a trace on the model or the random state.

    The model sees ``micro_batch_size`` rows at a time, 0: all at once; ``function`` sees its answer
    to all of them.
    """
    in_parts = InParts(model, micro_batch_size)

    def run(batch: Batch) -> T:
        with scoring(in_parts), autocast(batch, bf16):
            return function(in_parts, batch)

    return run


def loss_source(
    model: nn.Module, task: Task, *, micro_batch_size: int = 0, bf16: bool = False
) -> LossSource:
    """The act losses of ``model``, without a trace, fp32; in parts if ``micro_batch_size`` > 0."""
    return traceless(model, task.act_loss, micro_batch_size=micro_batch_size, bf16=bf16)


def rows_at_once(asked: int, model: nn.Module) -> int:
    """How many rows ``model`` scores at a time: as ``asked``; if that is 0, as suits its device."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return asked or (ROWS_ON_CPU if on_cpu else 0)


def split(batch: Batch, part_size: int, of_ranks: Sequence[int] | None = None) -> list[Batch]:
    """``batch`` in parts, in order, as `part_sizes` says; whole if ``part_size`` is 0."""
    sizes = part_sizes(size(batch), part_size, of_ranks or [size(batch)])
    if len(sizes) == 1:
        return [batch]
    rows = torch.arange(size(batch), device=next(iter(batch.values())).device)
    return [take(batch, part) for part in torch.split(rows, sizes)]


def part_sizes(rows: int, part_size: int, of_ranks: Sequence[int]) -> list[int]:
    """Sizes of the parts of ``rows``: ``part_size`` each and the rest; one part if that is 0.

    As many parts as the longest of ``of_ranks``, the rows of each rank, has; so where ranks have
    different numbers of rows, parts are made equal instead. None is empty: for that, the shortest
    rank's parts are as many as its rows, and others' may be larger than ``part_size``.
    """
    if part_size <= 0:
        return [rows]
    parts = max(1, min(-(-max(of_ranks) // part_size), *of_ranks))
    if parts == -(-rows // part_size):
        return [part_size] * (parts - 1) + [rows - part_size * (parts - 1)]
    return [rows // parts + (place < rows % parts) for place in range(parts)]


def autocast(batch: Batch, bf16: bool) -> torch.autocast:
    """bf16 towers where asked for, on the device of the batch."""
    return torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16, enabled=bf16)
