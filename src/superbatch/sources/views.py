"""Views: what an example looks like when it is scored or learned from.

An augmented view is a pure function of (seed, draw): whoever reads a draw again, alone, in another
order or in another process, sees the same pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8, UInt64
from torch import Tensor

from superbatch.errors import ConfigError, DataError
from superbatch.sources.permutation import CROP, FLIP, RAND_AUGMENT, random_bits
from superbatch.types import Batch, View


def plain(batch: Batch) -> Batch:
    """The examples as they are."""
    return batch


def augmentation(*, flip: bool, crop_padding: int, rand_augment: bool, seed: int) -> View:
    """The view that flips half of the images, crops them at random, and RandAugments them.

    ``crop_padding`` is how many reflected pixels are added on each side before a crop of the
    image's own size is taken. RandAugment (two operations of magnitude 9, torchvision's) comes
    first, one image after the other, and is slow; flip and crop are one gather. Batches must have
    the field ``"draw"``. With everything off the view is `plain`.
    """
    if not (flip or crop_padding or rand_augment):
        return plain
    return _Augmentation(flip, crop_padding, rand_augment, seed)


@dataclass(frozen=True)
class _Augmentation:
    flip: bool
    crop_padding: int
    rand_augment: bool
    seed: int

    def __call__(self, batch: Batch) -> Batch:
        if "draw" not in batch:
            raise DataError(
                "an augmented view is decided by the draw, and the batch has only the fields "
                f"{', '.join(batch)}; read it from a Stream, or give it the field 'draw'"
            )
        draws = batch["draw"].cpu().numpy()
        image = batch["image"]
        if self.rand_augment:
            image = _rand_augmented(image, random_bits(self.seed, draws, RAND_AUGMENT))
        if self.flip or self.crop_padding:
            image = self._gathered(image, draws)
        return {**batch, "image": image}

    def _gathered(
        self, images: UInt8[Tensor, "n c h w"], draws: Int64[np.ndarray, " n"]
    ) -> UInt8[Tensor, "n c h w"]:
        """Crop and mirror: each pixel is fetched from where it was, the same for all channels."""
        count, channels, height, width = images.shape
        if self.crop_padding >= min(height, width):
            raise ConfigError(
                f"crop_padding is {self.crop_padding} and images are {height}x{width} pixels; "
                "reflected padding must be smaller than the image"
            )
        bits = random_bits(self.seed, draws, CROP)
        down, right = (
            torch.from_numpy((half % np.uint64(2 * self.crop_padding + 1)).astype(np.int64))
            for half in (bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF))
        )
        rows = _reflected(torch.arange(height) + (down - self.crop_padding)[:, None], height)
        columns = _reflected(torch.arange(width) + (right - self.crop_padding)[:, None], width)
        if self.flip:
            mirrored = torch.from_numpy(random_bits(self.seed, draws, FLIP) >> np.uint64(63) == 1)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        pixels = (rows[:, :, None] * width + columns[:, None, :]).to(images.device)
        index = pixels.reshape(count, 1, height * width).expand(-1, channels, -1)
        return images.reshape(count, channels, height * width).gather(2, index).reshape_as(images)


def _reflected(index: Int64[Tensor, "n side"], side: int) -> Int64[Tensor, "n side"]:
    """Places before 0 and from ``side`` on, mirrored at the first and the last pixel."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def _rand_augmented(
    images: UInt8[Tensor, "n c h w"], bits: UInt64[np.ndarray, " n"]
) -> UInt8[Tensor, "n c h w"]:
    """RandAugment of each image with a generator state of its own; the global one is kept."""
    from torchvision.transforms import v2

    transform = v2.RandAugment()
    changed = torch.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        for row, seed in enumerate(bits.tolist()):
            torch.default_generator.manual_seed(seed)
            changed[row] = transform(images[row])
    return changed
