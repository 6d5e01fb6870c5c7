"""One model on several ranks: whole on each, or in shards (FSDP2), learning as one process would.

A whole model is used as it is: its gradients are averaged once they are all there, so that whatever
ran it - in parts, twice, at two resolutions - need not know of other ranks (docs/adr/0015).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from superbatch.distributed import is_main, mean_over_ranks, world


_AT_ONCE = 2**25
"""Numbers in one message of gradients: 128 MB."""


def shard(model: nn.Module, device: torch.device) -> None:
    """Cut ``model`` in place into shards over all ranks, a block of layers at a time; for all.

    Single numbers, such as the scale of a two-tower model, stay whole. What a two-tower model
    answers besides ``forward`` works too. Each parameter is then a ``DTensor``.
    """
    mesh = init_device_mesh(device.type, (world()[1],))
    numbers = {p for p in model.parameters() if p.ndim == 0}
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, ignored_params=numbers)
    # Else torch would keep the outermost layers whole after scoring.
    fully_shard(model, mesh=mesh, ignored_params=numbers, reshard_after_forward=True)
    for name in ("encode_image", "encode_text"):
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The like members of every sequence in ``model``, inner ones first."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.ModuleList | nn.Sequential):
            members = list(module)
            if len(members) > 1 and len({type(member) for member in members}) == 1:
                yield from (
                    member for member in members if next(member.parameters(), None) is not None
                )


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model``, or one within it, runs only if every rank runs it as often."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def average_gradients(model: nn.Module) -> None:
    """Set each gradient of ``model`` to its mean over ranks; for all.

    Shards have theirs averaged already, by the backward pass. A parameter without gradient on any
    rank stays so, and the optimizer leaves it alone.
    """
    if world()[1] == 1:
        return
    learned = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not learned:
        return
    has = torch.tensor([float(p.grad is not None) for p in learned], device=learned[0].device)
    had = mean_over_ranks(has)
    for some in _messages(list(enumerate(learned))):
        own = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in some]
        mean = mean_over_ranks(torch.cat([gradient.flatten() for gradient in own]))
        for (place, p), gradient in zip(some, _like(own, mean), strict=True):
            if p.grad is not None:
                p.grad.copy_(gradient)
            elif had[place] > 0:
                p.grad = gradient.clone()


def _messages(
    learned: Sequence[tuple[int, nn.Parameter]],
) -> Iterator[list[tuple[int, nn.Parameter]]]:
    """``learned`` in runs of one type that are not too long to be sent at once."""
    some: list[tuple[int, nn.Parameter]] = []
    for one in learned:
        numbers = sum(p.numel() for _, p in some) + one[1].numel()
        if some and (numbers > _AT_ONCE or one[1].dtype != some[0][1].dtype):
            yield some
            some = []
        some.append(one)
    yield some


def _like(tensors: Sequence[Tensor], flat: Tensor) -> Iterator[Tensor]:
    """The numbers in ``flat`` in the shapes of ``tensors``."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return (part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale gradients down to norm ``largest``, that of the whole model, in shards or not; for all.

    Gradients of parameters that are not in shards must be the same on every rank.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    shards = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    if not shards:
        clip_grad_norm_([p for p in parameters if p.grad is not None], largest)
        return
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = get_total_norm(shards) ** 2
    distributed.all_reduce(square)
    if whole:
        square = square + get_total_norm(whole) ** 2
    factor = (largest / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in shards + whole:
        gradient.mul_(factor)


def follow_main(tensors: Sequence[Tensor]) -> None:
    """Set ``tensors``, such as batch statistics, to those of rank 0; for all."""
    if world()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def statistics(model: nn.Module) -> list[Tensor]:
    """What ``model`` keeps besides parameters and changes as it learns: batch norm's averages."""
    kept = model.state_dict().keys()
    return [
        value for name, value in model.named_buffers() if name in kept and value.is_floating_point()
    ]


def whole(value: Any) -> Any:
    """``value`` with every shard in it made whole, on the CPU; for all.

    ``value`` is a tensor, a mapping or list of such, or anything else. Rank 0 gets the numbers;
    elsewhere the tensors that were in shards are on the meta device, where they take no memory.
    """
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if is_main() else full.to("meta")


def as_held(value: Tensor, like: Tensor) -> Tensor:
    """``value``, whole on every rank, as ``like`` is held here: whole, or this rank's shard."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
