"""From encoded images to pixels, in lists where that is faster."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, decode_jpeg


_JPEG = b"\xff\xd8\xff"


def decoded(encoded: Sequence[bytes]) -> list[UInt8[Tensor, "3 h w"] | None]:
    """The RGB images that ``encoded`` holds, ``None`` for each that cannot be decoded.

    JPEG, PNG, WebP and GIF (its first frame), gray, paletted and CMYK ones too. A list of JPEGs
    takes half the time of one image after the other.
    """
    if encoded and all(image.startswith(_JPEG) for image in encoded):
        try:
            images: list[Tensor | None] = decode_jpeg(
                [_tensor(image) for image in encoded], mode=ImageReadMode.RGB
            )
            return images
        except RuntimeError:
            pass  # one is broken; which one, only decoding each by itself can tell
    return [_decoded_alone(image) for image in encoded]


def resized(images: UInt8[Tensor, "n c h w"], height: int, width: int) -> UInt8[Tensor, "n c H W"]:
    """``images`` scaled bilinearly with antialiasing; the aspect is not kept."""
    if images.shape[2:] == (height, width):
        return images
    size = (height, width)
    return torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)


def _tensor(encoded: bytes) -> UInt8[Tensor, " n"]:
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8)


def _decoded_alone(encoded: bytes) -> UInt8[Tensor, "3 h w"] | None:
    if not encoded:
        return None
    try:
        image: Tensor = decode_image(_tensor(encoded), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    if image.dim() == 4:
        image = image[0]
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) // 257).to(torch.uint8)
    return image
