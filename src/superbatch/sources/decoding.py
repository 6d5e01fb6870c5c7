"""From encoded images to pixels: lists of JPEGs by torchvision, all else by Pillow."""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # deprecated since torchvision 0.29: Pillow alone is slower, and enough
    decode_jpeg = None

_JPEG = b"\xff\xd8\xff"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the frame header."""
_SEGMENTS = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Markers of the segments that may come before it: tables, comments and applications' own."""

_PIXELS_AT_ONCE = 1 << 26
"""Of JPEGs that are decoded together: 200 MB. One that has more is decoded by itself."""


def decoded(encoded: Sequence[bytes]) -> Iterator[UInt8[Tensor, "3 h w"] | None]:
    """The RGB images that ``encoded`` holds, ``None`` for each that cannot be decoded.

    They are decoded as they are asked for: who makes each smaller holds few large ones at a time.
    Any format that Pillow knows, gray, paletted and CMYK ones too; of an animation the first
    frame. What an image becomes depends on its own bytes alone, never on those beside it. One of
    more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels is not decoded: a file of a few bytes can claim
    to be an image of many gigabytes.
    """
    pixels = [_jpeg_pixels(image) if decode_jpeg else None for image in encoded]
    for part in _together(pixels):
        jpegs = [row for row in part if pixels[row] is not None]
        images = _decoded_jpegs([encoded[row] for row in jpegs])[::-1]  # to pop, and so to free
        for row in part:
            yield _decoded_alone(encoded[row]) if pixels[row] is None else images.pop()


def resized(images: UInt8[Tensor, "n c h w"], height: int, width: int) -> UInt8[Tensor, "n c H W"]:
    """``images`` scaled bilinearly with antialiasing; the aspect is not kept."""
    if images.shape[2:] == (height, width):
        return images
    size = (height, width)
    return torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)


def _together(pixels: Sequence[int | None]) -> Iterator[range]:
    """Rows, in order, whose JPEGs may be decoded together; None is no JPEG."""
    start = total = 0
    for row, count in enumerate(pixels):
        total += count or 0
        if total > _PIXELS_AT_ONCE and row > start:
            yield range(start, row)
            start, total = row, count or 0
    yield range(start, len(pixels))


def _decoded_jpegs(encoded: Sequence[bytes]) -> list[Tensor | None]:
    """All at once, in half the time of one by one; one by one where a broken one prevents that."""
    if not encoded:
        return []
    tensors = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in encoded]
    try:
        with warnings.catch_warnings(action="ignore"):  # torchvision's, of its own old age
            images: list[Tensor | None] = decode_jpeg(tensors, mode=ImageReadMode.RGB)
        return images
    except RuntimeError:
        if len(encoded) == 1:
            return [None]
        return [_decoded_jpegs([image])[0] for image in encoded]


def _decoded_alone(encoded: bytes) -> UInt8[Tensor, "3 h w"] | None:
    try:
        # Pillow warns of odd files
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded)) as file:
            if _is_too_large(*file.size):
                return None
            image: Image.Image = file
            if file.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
                image = Image.fromarray((np.asarray(file) // 257).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except Exception:  # Pillow raises many kinds for broken files
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _jpeg_pixels(encoded: bytes) -> int | None:
    """How many pixels it has, if it is a JPEG whose header says, as it should, that these are not
    too many.

    torchvision would allocate whatever the header asks for. Of segments up to the frame header all
    but their lengths is passed over; what is odd is left to Pillow.
    """
    if not encoded.startswith(_JPEG):
        return None
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", encoded, at + 5)
            return None if _is_too_large(width, height) else width * height
        if marker not in _SEGMENTS:
            return None
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return None


def _is_too_large(width: int, height: int) -> bool:
    return Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS
