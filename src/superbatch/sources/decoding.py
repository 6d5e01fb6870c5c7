"""From encoded images to pixels: lists of JPEGs by torchvision, all else by Pillow."""

import io
import struct
import warnings
from collections.abc import Sequence

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


def decoded(encoded: Sequence[bytes]) -> list[UInt8[Tensor, "3 h w"] | None]:
    """The RGB images that ``encoded`` holds, ``None`` for each that cannot be decoded.

    Any format that Pillow knows, gray, paletted and CMYK ones too; of an animation the first
    frame. What an image becomes depends on its own bytes alone, never on those beside it. One of
    more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels is not decoded: a file of a few bytes can claim
    to be an image of many gigabytes.
    """
    jpegs = [row for row, image in enumerate(encoded) if decode_jpeg and _is_plain_jpeg(image)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of odd files and of their own old age
        found = dict(zip(jpegs, _decoded_jpegs([encoded[row] for row in jpegs]), strict=True))
        return [
            found[row] if row in found else _decoded_alone(image)
            for row, image in enumerate(encoded)
        ]


def resized(images: UInt8[Tensor, "n c h w"], height: int, width: int) -> UInt8[Tensor, "n c H W"]:
    """``images`` scaled bilinearly with antialiasing; the aspect is not kept."""
    if images.shape[2:] == (height, width):
        return images
    size = (height, width)
    return torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)


def _decoded_jpegs(encoded: Sequence[bytes]) -> list[Tensor | None]:
    """All at once, in half the time of one by one; one by one where a broken one prevents that."""
    if not encoded:
        return []
    tensors = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in encoded]
    try:
        images: list[Tensor | None] = decode_jpeg(tensors, mode=ImageReadMode.RGB)
        return images
    except RuntimeError:
        if len(encoded) == 1:
            return [None]
        return [_decoded_jpegs([image])[0] for image in encoded]


def _decoded_alone(encoded: bytes) -> UInt8[Tensor, "3 h w"] | None:
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            if _is_too_large(*file.size):
                return None
            image: Image.Image = file
            if file.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
                image = Image.fromarray((np.asarray(file) // 257).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except Exception:  # Pillow raises many kinds for broken files
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Whether it is a JPEG whose header says, as it should, that it is not too large.

    torchvision would allocate whatever the header asks for. Of segments up to the frame header all
    but their lengths is passed over; what is odd is left to Pillow.
    """
    if not encoded.startswith(_JPEG):
        return False
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", encoded, at + 5)
            return not _is_too_large(width, height)
        if marker not in _SEGMENTS:
            return False
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return False


def _is_too_large(width: int, height: int) -> bool:
    return Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS
