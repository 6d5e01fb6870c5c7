"""Pixels: from the bytes that sources give to the numbers that models see."""

from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn


def pixels(
    image: Shaped[Tensor, "n channels height width"],
) -> Float[Tensor, "n channels height width"]:
    """``uint8`` images brought from [0, 255] to [-1, 1]; images of floats are taken as they are."""
    if image.is_floating_point():
        return image
    return image.float().div_(127.5).sub_(1.0)


def answer(
    model: nn.Module, image: Shaped[Tensor, "n channels height width"], *others: Tensor
) -> Any:
    """What ``model`` says to ``pixels(image)`` and whatever else it is shown.

    A model that says of itself that it ``takes_bytes`` is given the image as it is: it brings the
    parts that it works on to [-1, 1] itself, so that never the whole batch is held as floats.
    """
    return model(image if getattr(model, "takes_bytes", False) else pixels(image), *others)
