"""Small residual ConvNets: cheap models for scoring small images.

On 32-pixel images and few examples they tell labels far better than a ViT of the same cost.
"""

import re
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu


@dataclass(frozen=True)
class ConvSize:
    """Three stages of one residual block, ``width``, twice and four times as many channels wide.

    ``stride`` is that of the first convolution: with 2, all the rest sees a quarter of the places.
    The ResNet-8 of He et al. (2015, arXiv 1512.03385, section 4.2) is width 16, stride 1.
    """

    width: int
    stride: int


def parse_conv_name(name: str) -> ConvSize | None:
    """What ``"conv-WIDTH/STRIDE"`` ("conv-8/2") names, or None if it names no such network."""
    match = re.fullmatch(r"conv-(?P<width>[1-9]\d*)/(?P<stride>[1-9]\d*)", name)
    return None if match is None else ConvSize(int(match["width"]), int(match["stride"]))


class ConvNet(nn.Module):
    """Images to logits, or to features if ``classes`` is 0; ``dropout`` comes before the head."""

    def __init__(
        self, size: ConvSize, *, channels: int, classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [size.width, 2 * size.width, 4 * size.width]
        self.stem = _convolution(channels, size.width, size.stride)
        self.stages = nn.Sequential(
            _Residual(size.width, widths[0], stride=1),
            _Residual(widths[0], widths[1], stride=2),
            _Residual(widths[1], widths[2], stride=2),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[2], classes) if classes else nn.Identity()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n out"]:
        """Logits, from what the last stage sees on average over the image."""
        features = self.stages(relu(self.stem(images))).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


class _Residual(nn.Module):
    """Two convolutions beside the way past them."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride)
        self.second = _convolution(after, after, 1)
        as_it_is = before == after and stride == 1
        self.past = nn.Identity() if as_it_is else _convolution(before, after, stride, side=1)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        changed: Tensor = relu(self.second(relu(self.first(maps))) + self.past(maps))
        return changed


def _convolution(before: int, after: int, stride: int, *, side: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))
