"""Images that are arrays already: scikit-learn's digits, and .npz files."""

import zipfile
import zlib
from collections.abc import Container
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from superbatch.errors import DataError
from superbatch.files import memory, refusal
from superbatch.sources.catalogue import Column, catalogue_of, refuse_too_large
from superbatch.sources.decoding import resized
from superbatch.sources.examples import ArrayExamples
from superbatch.sources.tables import Columns


_ALSO = {"image": ("images", "x"), "label": ("labels", "y"), "id": ("ids",)}
"""What arrays are often called, looked for only where no other name was asked for."""


def digits(image_size: int | None = None) -> ArrayExamples:
    """The 1,797 handwritten digits of scikit-learn, 1 x 8 x 8; its 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    ids = np.arange(len(labels), dtype=np.int64)
    entries = catalogue_of(
        "digits", ids, ("label", labels.astype(np.int64)), class_names=map(str, range(10))
    )
    return ArrayExamples(_sized(torch.from_numpy(pixels), image_size), entries)


def read_arrays(path: Path, columns: Columns, image_size: int | None = None) -> ArrayExamples:
    """The arrays of an .npz file: images of bytes, NHWC, NCHW or NHW, and integer labels.

    Arrays named ``images`` or ``x``, ``labels`` or ``y``, ``id`` or ``ids`` are found by
    themselves; ids are row numbers where there are none.
    """
    try:
        arrays = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if refused := refusal(error):
            raise DataError(f"cannot read {path}: {refused}") from error
        raise DataError(f"{path} is not an .npz file of arrays: {error}") from error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise DataError(f"{path} is one array and not an .npz file; write it with numpy.savez")
    try:
        return _read(path, arrays, columns, image_size)
    except DataError:
        raise
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, such as labels that are words; write arrays of "
                "numbers, with classes numbered from 0"
            ) from error
        raise DataError(f"{path} is damaged: {error}; write it again") from error


def _read(
    path: Path, arrays: np.lib.npyio.NpzFile, columns: Columns, image_size: int | None
) -> ArrayExamples:
    with arrays:
        columns = Columns(_name(arrays, columns.label), _name(arrays, columns.image), columns.truth)
        columns.require(str(path), arrays)
        images = _images(path, columns.image, arrays[columns.image])
        ids = _name(arrays, "id")
        count = len(images)
        entries = catalogue_of(
            str(path),
            _integers(path, arrays, ids, count)[1] if ids in arrays else np.arange(count),
            _integers(path, arrays, columns.label, count),
            truth=None if columns.truth is None else _integers(path, arrays, columns.truth, count),
        )
    return ArrayExamples(_sized(images, image_size), entries)


def _name(arrays: Container[str], wanted: str) -> str:
    there = (name for name in (wanted, *_ALSO.get(wanted, ())) if name in arrays)
    return next(there, wanted)


def _integers(path: Path, arrays: np.lib.npyio.NpzFile, name: str, count: int) -> Column:
    values = arrays[name]
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise DataError(
            f"'{name}' of {path} is {values.dtype} {values.shape}; "
            f"{count} integers are needed, one for each image"
        )
    refuse_too_large(str(path), name, int(values.max(initial=0)))
    return name, values.astype(np.int64)


def _images(path: Path, name: str, images: np.ndarray) -> UInt8[Tensor, "n c h w"]:
    """NCHW from NHWC, NCHW or NHW; an array that could be either is taken as NHWC."""
    colours = (1, 3)
    if images.dtype == np.uint8 and images.ndim == 3:
        images = images[:, None]
    elif images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in colours:
        images = images.transpose(0, 3, 1, 2)
    elif images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in colours:
        raise DataError(
            f"'{name}' of {path} is {images.dtype} {images.shape}; images are uint8, "
            "[n, height, width, channels], [n, channels, height, width] or [n, height, width], "
            "with 1 or 3 channels of 0..255"
        )
    return torch.from_numpy(np.ascontiguousarray(images))


def _sized(images: UInt8[Tensor, "n c h w"], side: int | None) -> UInt8[Tensor, "n c H W"]:
    if side is None:
        return images
    count, channels = images.shape[:2]
    wanted, there = count * channels * side * side, memory()
    if wanted > there:
        raise DataError(
            f"{count} images of {side}x{side} pixels take {wanted / 1e9:.0f} GB and this machine "
            f"has {there / 1e9:.0f} GB of memory; give a smaller --data.image-size than {side}"
        )
    return resized(images, side, side)
