"""Replicas: one small model, whole on every rank, that learns from the rows of all."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from superbatch.distributed import world


def average_gradients(model: nn.Module) -> None:
    """Set each gradient of ``model`` to its mean over ranks; for all.

    A parameter that has a gradient on some ranks only counts as zeros on the others.
    """
    _, ranks = world()
    if ranks == 1:
        return
    learned = [p for p in model.parameters() if p.requires_grad]
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    mean = mean_over_ranks(torch.cat([gradient.flatten().float() for gradient in own]))
    parts = torch.split(mean, [p.numel() for p in learned])
    for p, part in zip(learned, parts, strict=True):
        p.grad = part.view_as(p).to(p.dtype)


def follow_main(tensors: Sequence[Tensor]) -> None:
    """Set ``tensors`` to those of rank 0; for all."""
    if world()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)


def mean_over_ranks(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of the ranks' ``value``, which is without gradient; for all."""
    _, ranks = world()
    if ranks == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / ranks
