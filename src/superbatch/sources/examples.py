"""Examples at random access: in memory as pixels, or encoded and decoded when they are read."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
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
_ENCODED_AT_ONCE = 64


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
    """Pixels in memory: reading is one gather.

    ``images`` are those of the rows where ``readable``, one after the other; None: of all. A broken
    image keeps its row, and is missing from what is read: it is the same set as on disk.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "m channels height width"],
        catalogue: Catalogue,
        *,
        readable: Bool[np.ndarray, " rows"] | None = None,
    ) -> None:
        if readable is None:
            readable = np.ones(len(catalogue), dtype=bool)
        assert len(images) == np.count_nonzero(readable)
        self.images = images
        self.catalogue = catalogue
        self.ids = catalogue.ids
        self.skipped = frozenset(self.ids[~readable].tolist())
        self._readable = readable
        self._place = np.cumsum(readable) - 1
        self.labels = catalogue.labels
        self.class_names = catalogue.class_names
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])
        self.fingerprint = catalogue.fingerprint(self.image_shape)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """See `Examples.read`; too many broken images were refused before."""
        rows = rows[self._readable[rows]]
        image = self.images.index_select(0, torch.from_numpy(self._place[rows]))
        return {**self.catalogue.fields(rows), "image": image}


@final
class EncodedImages:
    """Encoded images by row, decoded to RGB each time they are read; broken ones are counted.

    ``encoded`` gives the bytes of rows, empty where there are none, and ``named`` says in messages
    which rows are meant. ``image_size`` is the side in pixels that images are resized to; without
    it every image must be of the first one's size.
    """

    def __init__(
        self,
        encoded: Callable[[Int64[np.ndarray, " n"]], list[bytes]],
        count: int,
        *,
        named: Callable[[Sequence[int]], str],
        image_size: int | None = None,
    ) -> None:
        self.encoded = encoded
        self.count = count
        self.named = named
        self._resizes = image_size is not None
        height, width = (image_size, image_size) if image_size else self._first_size()
        self.image_shape = (3, height, width)
        self._was_read = np.zeros(count, dtype=bool)
        self._broken: set[int] = set()

    @property
    def broken(self) -> Int64[np.ndarray, " broken"]:
        """The rows of broken images met so far, ascending."""
        return np.array(sorted(self._broken), dtype=np.int64)

    def read(
        self, rows: Int64[np.ndarray, " n"]
    ) -> tuple[UInt8[Tensor, "m 3 height width"], Bool[np.ndarray, " n"]]:
        """`decoded`; ``DataError`` if over 1 % were broken so far.

        The limit holds from the 1000th distinct row, or from the last.
        """
        images, readable = self.decoded(rows)
        self._was_read[rows] = True
        self._broken.update(rows[~readable].tolist())
        count = int(np.count_nonzero(self._was_read))
        if count >= min(self.count, _CHECKED_FROM):
            self.check_broken(sorted(self._broken), count)
        return images, readable

    def decoded(
        self, rows: Int64[np.ndarray, " n"]
    ) -> tuple[UInt8[Tensor, "m 3 height width"], Bool[np.ndarray, " n"]]:
        """The images of ``rows`` that can be decoded, and for each row whether it could be.

        A row that comes several times is decoded once.
        """
        distinct, place = np.unique(rows, return_inverse=True)
        images: list[Tensor | None] = []
        for start in range(0, len(distinct), _ENCODED_AT_ONCE):
            part = distinct[start : start + _ENCODED_AT_ONCE]
            for row, image in zip(part.tolist(), decoded(self.encoded(part)), strict=True):
                images.append(None if image is None else self._fitting(image, row))
        readable = np.array([image is not None for image in images], dtype=bool)[place]
        fitting = [image for image in map(images.__getitem__, place) if image is not None]
        if not fitting:
            return torch.empty(0, *self.image_shape, dtype=torch.uint8), readable
        return torch.stack(fitting), readable

    def all_decoded(
        self, progress: Progress | None = None
    ) -> tuple[UInt8[Tensor, "m 3 height width"], Bool[np.ndarray, " rows"]]:
        """`decoded` of every row; ``DataError`` if over 1 % are broken."""
        images = torch.empty(self.count, *self.image_shape, dtype=torch.uint8)
        readable = np.zeros(self.count, dtype=bool)
        filled = 0
        for start in range(0, self.count, _DECODED_AT_ONCE):
            rows = np.arange(start, min(start + _DECODED_AT_ONCE, self.count), dtype=np.int64)
            part, readable[rows] = self.decoded(rows)
            images[filled : filled + len(part)] = part
            filled += len(part)
            if progress is not None:
                progress(int(rows[-1]) + 1, self.count)
        self.check_broken(np.flatnonzero(~readable).tolist(), self.count)
        return images[:filled], readable

    def check_broken(self, broken: Sequence[int], read: int) -> None:
        """Raise ``DataError`` if the rows ``broken`` are over 1 % of the ``read`` images."""
        if len(broken) > BROKEN_LIMIT * read:
            raise DataError(
                f"{len(broken)} of {read} images cannot be decoded ({len(broken) / read:.1%}, the "
                f"limit is {BROKEN_LIMIT:.0%}), such as those of {self.named(broken[:3])}; "
                "mend or remove them, or check --data.image"
            )

    def _fitting(self, image: UInt8[Tensor, "3 h w"], row: int) -> UInt8[Tensor, "3 H W"]:
        _, height, width = self.image_shape
        if image.shape[1:] == (height, width):
            return image
        if not self._resizes:
            raise DataError(
                f"images differ in size: the first is {height}x{width} pixels and "
                f"{self.named([row])} is {image.shape[1]}x{image.shape[2]}; "
                "set --data.image-size to resize all of them"
            )
        return resized(image[None], height, width)[0]

    def _first_size(self) -> tuple[int, int]:
        for row in range(min(self.count, _CHECKED_FROM)):
            (image,) = decoded(self.encoded(np.array([row])))
            if image is not None:
                return image.shape[1], image.shape[2]
        raise DataError(
            f"not one of the first {min(self.count, _CHECKED_FROM)} images can be decoded "
            "(JPEG, PNG, WebP and GIF can be); check --data.image"
        )


@final
class EncodedExamples:
    """Encoded images with labels, decoded each time they are read. See `EncodedImages`."""

    def __init__(
        self, encoded: Encoded, catalogue: Catalogue, *, image_size: int | None = None
    ) -> None:
        self.catalogue = catalogue
        self.ids = catalogue.ids
        self.labels = catalogue.labels
        self.class_names = catalogue.class_names
        self.images = EncodedImages(
            partial(_one_by_one, encoded), len(catalogue), named=self._named, image_size=image_size
        )
        self.image_shape = self.images.image_shape
        self.fingerprint = catalogue.fingerprint(self.image_shape)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the broken images met so far."""
        return frozenset(self.ids[self.images.broken].tolist())

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """See `Examples.read`. The limit holds from the 1000th distinct row, or from the last."""
        images, readable = self.images.read(rows)
        return {**self.catalogue.fields(rows[readable]), "image": images}

    def _named(self, rows: Sequence[int]) -> str:
        ids = ", ".join(str(self.ids[row]) for row in rows)
        return f"id {ids}" if len(rows) == 1 else f"ids {ids}"


def in_memory(examples: EncodedExamples, progress: Progress | None = None) -> ArrayExamples:
    """Every image of ``examples`` decoded now. Raises ``DataError`` if over 1 % are broken."""
    images, readable = examples.images.all_decoded(progress)
    return ArrayExamples(images, examples.catalogue, readable=readable)


def _one_by_one(encoded: Encoded, rows: Int64[np.ndarray, " n"]) -> list[bytes]:
    return [encoded(row) for row in rows.tolist()]
