"""The sizes of Vision Transformer and BERT that have a name, and what a ViT's forward pass costs.

Nothing here needs torch: the cost planner answers from this module alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from superbatch.errors import ConfigError


_STANDARD = "the standard ViT shapes (Zhai et al. 2021, arXiv 2106.04560, table 2)"
_OURS = "ours, not the paper's: the shapes of its ViT-Mu family are not public"


OPEN_CLIP = "open_clip:"
"""What stands before a name of open_clip's."""


@dataclass(frozen=True)
class ViTSize:
    """The shape of a Vision Transformer, whatever its patch, image and head.

    ``mlp`` is the hidden width of the MLP; ``source`` says where the shape comes from.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    source: str


VARIANTS: Mapping[str, ViTSize] = MappingProxyType(
    {
        "L": ViTSize(1024, 24, 4096, 16, _STANDARD),
        "B": ViTSize(768, 12, 3072, 12, _STANDARD),
        "S": ViTSize(384, 12, 1536, 6, _STANDARD),
        "Ti": ViTSize(192, 12, 768, 3, _STANDARD),
        "mu-100": ViTSize(128, 12, 512, 2, _OURS),
        "mu-200": ViTSize(128, 6, 512, 2, _OURS),
        "mu-300": ViTSize(96, 6, 384, 2, _OURS),
        "mu-600": ViTSize(64, 6, 256, 1, _OURS),
        "mu-1000": ViTSize(64, 3, 256, 1, _OURS),
        "mu-2400": ViTSize(48, 2, 192, 1, _OURS),
    }
)
"""Sizes by name, largest first. L, B, S and Ti are the standard ones. The Mu family is **ours, not
the paper's**; its names say about how many times cheaper than L a forward pass is."""


@dataclass(frozen=True)
class BertSize:
    """The shape of a BERT, whatever its vocabulary and head.

    As in all of Turc et al. (2019, arXiv 1908.08962), a head is 64 wide (one head where
    the model is narrower) and the MLP four times as wide as the model.
    """

    depth: int
    width: int

    @property
    def heads(self) -> int:
        """Of each attention."""
        return max(1, self.width // 64)

    @property
    def mlp(self) -> int:
        """Hidden width of the MLP."""
        return 4 * self.width


BERTS: Mapping[str, BertSize] = MappingProxyType(
    {
        "bert-base": BertSize(12, 768),
        "bert-medium": BertSize(8, 512),
        "bert-small": BertSize(4, 512),
        "bert-mini": BertSize(4, 256),
        "bert-tiny": BertSize(2, 128),
    }
)
"""Sizes of BERT by name, largest first: those that Turc et al. (2019) released under these names.
Any other is named by its shape, "bert-DEPTH/WIDTH"."""


def parse_bert_name(name: str) -> BertSize | None:
    """The size that ``"bert-mini"`` or ``"bert-4/256"`` names, or None if it names neither."""
    match = re.fullmatch(r"bert-(?P<depth>[1-9]\d*)/(?P<width>[1-9]\d*)", name)
    if match is None:
        return BERTS.get(name)
    return BertSize(int(match["depth"]), int(match["width"]))


def parse_vit_name(name: str) -> tuple[ViTSize, int] | None:
    """The size and the patch that ``"SIZE/PATCH"`` names ("Ti/16"), or None if it names neither."""
    match = re.fullmatch(r"(?P<size>[^/]+)/(?P<patch>[1-9]\d*)", name)
    if match is None or match["size"] not in VARIANTS:
        return None
    return VARIANTS[match["size"]], int(match["patch"])


def parse_two_tower_name(name: str) -> tuple[ViTSize, int, ViTSize] | None:
    """Image size, patch and text size that ``"Ti/16"`` (both Ti) or ``"Ti/16+mu-600"`` names."""
    image, plus, text = name.partition("+")
    vit = parse_vit_name(image)
    if vit is None or (plus and text not in VARIANTS):
        return None
    return *vit, VARIANTS[text] if plus else vit[0]


def patches_per_side(patch: int, image_size: int) -> int:
    """How many patches of ``patch`` pixels make one side of the image.

    Raises ``ConfigError`` with the nearest patches that fit where ``patch`` does not.
    """
    if image_size < 1 or patch < 1:
        raise ConfigError(f"image size ({image_size}) and patch ({patch}) must be at least 1 pixel")
    if image_size % patch:
        divisors = [side for side in range(1, image_size + 1) if image_size % side == 0]
        nearest = sorted(sorted(divisors, key=lambda side: abs(side - patch))[:3])
        raise ConfigError(
            f"a patch of {patch} pixels does not divide an image of {image_size}; "
            f"the nearest patches that do: {', '.join(map(str, nearest))}"
        )
    return image_size // patch


def transformer_forward_flops(tokens: int, *, width: int, depth: int, mlp: int) -> int:
    """FLOPs of one forward pass of ``depth`` transformer blocks over ``tokens`` tokens.

    Two FLOPs for each multiply-accumulate, matrix products only: queries, keys, values and output
    ``8 N W^2``, attention ``4 N^2 W``, MLP ``4 N W M``. Norms, activations and additions, about
    one in a hundred, are left out, as they are in torch's counter.
    """
    per_block = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp
    return depth * per_block


def vit_forward_flops(
    size: ViTSize,
    patch: int,
    *,
    image_size: int,
    channels: int = 3,
    classes: int = 0,
    prefix_tokens: int = 1,
) -> int:
    """FLOPs of one image's forward pass: patch embedding, blocks, head (none if ``classes`` = 0).

    ``prefix_tokens`` are those that are no patch: our models, the usual ViTs, have a class token.
    Equals torch's own counter on the meta device to the last integer (a test holds it to that).
    """
    if classes < 0:
        raise ConfigError(f"classes ({classes}) must be at least 0, which is no head")
    patches = patches_per_side(patch, image_size) ** 2
    embedding = 2 * patches * patch**2 * channels * size.width
    blocks = transformer_forward_flops(
        patches + prefix_tokens, width=size.width, depth=size.depth, mlp=size.mlp
    )
    return embedding + blocks + 2 * size.width * classes
