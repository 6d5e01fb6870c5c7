"""Pixels: from the bytes that sources give to the numbers that models see."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


def pixels(values: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
    """Bytes, which are images, brought from [0, 255] to [-1, 1]; all else is taken as it is."""
    if values.dtype != torch.uint8:
        return values
    return values.float().div_(127.5).sub_(1.0)


def answer(model: nn.Module, first: Shaped[Tensor, "n ..."], *others: Tensor) -> Any:
    """What ``model`` says to ``pixels(first)`` and whatever else it is shown.

    A model that says of itself that it ``takes_bytes`` is given all as it is: it brings the parts
    that it works on to [-1, 1] itself, so that never the whole batch is held as floats.
    """
    return model(first if getattr(model, "takes_bytes", False) else pixels(first), *others)
