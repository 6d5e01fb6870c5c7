"""What the evaluations of two-tower models have in common: their frozen embeddings."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from superbatch.passes import autocast, rows_at_once, scoring
from superbatch.sources import Examples
from superbatch.sources.reading import batches_of
from superbatch.tasks.pixels import pixels
from superbatch.types import Batch


def image_embeddings(
    model: nn.Module,
    image: Tensor,
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> Float[Tensor, "n d"]:
    """Of images as sources give them, on ``device``, fp32, of any length; no trace on ``model``.

    Images of one channel are shown in all three.
    """
    image = in_colour(image.to(device))
    with scoring(model), autocast({"image": image}, bf16):
        parts = [model.encode_image(pixels(part)) for part in parted(image, model)]  # type: ignore[operator]
    return torch.cat(parts).float()


def text_embeddings(
    model: nn.Module,
    text: Int64[Tensor, "n context"],
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> Float[Tensor, "n d"]:
    """Of tokens, as `image_embeddings`."""
    text = text.to(device)
    with scoring(model), autocast({"text": text}, bf16):
        parts = [model.encode_text(part) for part in parted(text, model)]  # type: ignore[operator]
    return torch.cat(parts).float()


def parted(values: Tensor, model: nn.Module) -> Sequence[Tensor]:
    """``values`` in as many rows as ``model`` scores at a time."""
    return torch.split(values, rows_at_once(0, model) or max(1, len(values)))


def in_colour(image: Tensor) -> Tensor:
    """``image`` [n, channels, height, width] with three channels where it has one."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image


def labelled_batches(
    examples: Examples, rows: Int64[np.ndarray, " rows"] | None = None, *, batch_size: int = 250
) -> Iterator[Batch]:
    """``rows`` of ``examples``, or all of them, once, in order."""
    return batches_of(examples, np.arange(len(examples)) if rows is None else rows, batch_size)
