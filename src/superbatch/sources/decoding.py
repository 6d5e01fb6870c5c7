"""From encoded images to pixels: lists of JPEGs by torchvision, all else by Pillow."""

import io
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


def decoded(encoded: Sequence[bytes]) -> list[UInt8[Tensor, "3 h w"] | None]:
    """The RGB images that ``encoded`` holds, ``None`` for each that cannot be decoded.

    Any format that Pillow knows, gray, paletted and CMYK ones too; of an animation the first
    frame. What an image becomes depends on its own bytes alone, never on those beside it.
    """
    jpegs = [row for row, image in enumerate(encoded) if decode_jpeg and image.startswith(_JPEG)]
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
            image: Image.Image = file
            if file.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
                image = Image.fromarray((np.asarray(file) // 257).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except Exception:  # Pillow raises many kinds for broken files
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
