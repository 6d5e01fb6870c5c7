"""Examples at random access: in memory as pixels, or encoded and decoded when they are read."""

from collections.abc import Callable, Sequence
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from superbatch.errors import DataError
from superbatch.sources.catalogue import Catalogue
from superbatch.sources.decoding import decoded, resized
from superbatch.types import Batch


BROKEN_LIMIT = 0.01
"""Share of images that may be broken; with more, something is wrong with the whole set."""

Encoded = Callable[[int], bytes]
"""The encoded image of a row; empty where there is none."""

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""

_CHECKED_FROM = 1000  # distinct rows read before a share of broken ones means much
_DECODED_AT_ONCE = 1024


@runtime_checkable
class Examples(Protocol):
    """A data set whose rows can be read in any order."""

    ids: Int64[np.ndarray, " rows"]
    """The name of each row's example, the same in any run."""
    labels: Int64[np.ndarray, " rows"]
    """In [0, len(class_names))."""
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    fingerprint: str
    """Tells two data sets apart: a short hash of ids, labels and sizes."""

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the examples that were left out because their images are broken, so far."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``rows`` in that order, without those whose images are broken.

        ``"id"`` Int64[m], ``"image"`` UInt8[m, channels, height, width], ``"label"`` Int64[m] and,
        where it was asked for, ``"truth"`` Int64[m]; ``m`` is ``n`` less the broken ones. Raises
        ``DataError`` if more than 1 % of the images are broken.
        """
        ...


@final
class ArrayExamples:
    """Pixels in memory: reading is one gather."""

    def __init__(
        self,
        images: UInt8[Tensor, "rows channels height width"],
        catalogue: Catalogue,
        *,
        skipped: frozenset[int] = frozenset(),
    ) -> None:
        assert len(images) == len(catalogue)
        self.images = images
        self.catalogue = catalogue
        self.skipped = skipped
        self.ids = catalogue.ids
        self.labels = catalogue.labels
        self.class_names = catalogue.class_names
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])
        self.fingerprint = catalogue.fingerprint(self.image_shape)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """See `Examples.read`; nothing here is broken."""
        image = self.images.index_select(0, torch.from_numpy(rows))
        return {**self.catalogue.fields(rows), "image": image}


@final
class EncodedExamples:
    """Encoded images, decoded to RGB each time they are read.

    ``image_size`` is the side in pixels that images are resized to; without it every image must be
    of the first one's size.
    """

    def __init__(
        self, encoded: Encoded, catalogue: Catalogue, *, image_size: int | None = None
    ) -> None:
        self.encoded = encoded
        self.catalogue = catalogue
        self.ids = catalogue.ids
        self.labels = catalogue.labels
        self.class_names = catalogue.class_names
        self._resizes = image_size is not None
        height, width = (image_size, image_size) if image_size else self._first_size()
        self.image_shape = (3, height, width)
        self.fingerprint = catalogue.fingerprint(self.image_shape)
        self._was_read = np.zeros(len(catalogue), dtype=bool)
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the broken images met so far."""
        return frozenset(self._broken)

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """See `Examples.read`. The limit holds from the 1000th distinct row, or from the last."""
        images, readable = self.decoded(rows)
        self._was_read[rows] = True
        self._broken.update(self.ids[rows[~readable]].tolist())
        count = int(np.count_nonzero(self._was_read))
        if count >= min(len(self), _CHECKED_FROM):
            check_broken(sorted(self._broken), count)
        return {**self.catalogue.fields(rows[readable]), "image": images}

    def decoded(
        self, rows: Int64[np.ndarray, " n"]
    ) -> tuple[UInt8[Tensor, "m 3 height width"], np.ndarray]:
        """The images of ``rows`` that can be decoded, and for each row whether it could be."""
        images = decoded([self.encoded(row) for row in rows.tolist()])
        readable = np.array([image is not None for image in images], dtype=bool)
        fitting = [
            self._fitting(image, row)
            for image, row in zip(images, rows.tolist(), strict=True)
            if image is not None
        ]
        if not fitting:
            return torch.empty(0, *self.image_shape, dtype=torch.uint8), readable
        return torch.stack(fitting), readable

    def _fitting(self, image: UInt8[Tensor, "3 h w"], row: int) -> UInt8[Tensor, "3 H W"]:
        _, height, width = self.image_shape
        if image.shape[1:] == (height, width):
            return image
        if not self._resizes:
            raise DataError(
                f"images differ in size: the first is {height}x{width} pixels and id "
                f"{self.ids[row]} is {image.shape[1]}x{image.shape[2]}; "
                "set --data.image-size to resize all of them"
            )
        return resized(image[None], height, width)[0]

    def _first_size(self) -> tuple[int, int]:
        for row in range(min(len(self), _CHECKED_FROM)):
            image = decoded([self.encoded(row)])[0]
            if image is not None:
                return image.shape[1], image.shape[2]
        raise DataError(
            f"not one of the first {min(len(self), _CHECKED_FROM)} images can be decoded "
            "(JPEG, PNG, WebP and GIF can be); check --data.image"
        )


def in_memory(examples: EncodedExamples, progress: Progress | None = None) -> ArrayExamples:
    """Every image of ``examples`` decoded now; the broken ones are left out of the set.

    Raises ``DataError`` if they are more than 1 % of the set.
    """
    total = len(examples)
    images = torch.empty(total, *examples.image_shape, dtype=torch.uint8)
    readable = np.zeros(total, dtype=bool)
    filled = 0
    for start in range(0, total, _DECODED_AT_ONCE):
        rows = np.arange(start, min(start + _DECODED_AT_ONCE, total), dtype=np.int64)
        part, readable[rows] = examples.decoded(rows)
        images[filled : filled + len(part)] = part
        filled += len(part)
        if progress is not None:
            progress(int(rows[-1]) + 1, total)
    broken = examples.ids[~readable].tolist()
    check_broken(broken, total)
    return ArrayExamples(
        images[:filled],
        examples.catalogue.take(np.flatnonzero(readable)),
        skipped=frozenset(broken),
    )


def check_broken(broken: Sequence[int], read: int) -> None:
    """Raise ``DataError`` if the ids ``broken`` are over 1 % of the ``read`` images."""
    if len(broken) > BROKEN_LIMIT * read:
        raise DataError(
            f"{len(broken)} of {read} images cannot be decoded ({len(broken) / read:.1%}, the "
            f"limit is {BROKEN_LIMIT:.0%}), such as those of ids "
            f"{', '.join(map(str, broken[:3]))}; mend or remove them, or check --data.image"
        )
