"""Models of open_clip, priced from their configuration: both towers and both projections."""

from collections.abc import Mapping
from typing import Any

from superbatch.errors import ConfigError
from superbatch.models.variants import (
    OPEN_CLIP,
    ViTSize,
    transformer_forward_flops,
    vit_forward_flops,
)


PREFIX = OPEN_CLIP
_HEAD_WIDTH = 64


def clip_flops(name: str) -> int:
    """FLOPs of a forward pass of one image and one text, at the sizes that open_clip gives.

    ``name`` is open_clip's own ("ViT-B-32"). Raises ``ConfigError`` where the package is missing,
    the name is unknown, or the image tower is not a ViT of open_clip's own.
    """
    from superbatch.models.exchange import open_clip_config  # slow to import

    config = open_clip_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    for tower, needed in ((vision, ("width", "patch_size")), (text, ("context_length", "width"))):
        if not isinstance(tower.get("layers"), int) or not all(key in tower for key in needed):
            raise ConfigError(
                f"{PREFIX}{name} has a tower that is not a plain transformer of open_clip's own; "
                "give the model's forward FLOPs as a number instead"
            )
    return _image_tower(vision, config["embed_dim"]) + _text_tower(text, config["embed_dim"])


def _image_tower(vision: Mapping[str, Any], embedding: int) -> int:
    width = vision["width"]
    heads = width // vision.get("head_width", _HEAD_WIDTH)
    mlp = round(width * vision.get("mlp_ratio", 4.0))
    size = ViTSize(width, vision["layers"], mlp, heads, source="open_clip")
    # The projection to the shared space costs what a head of as many classes costs.
    return vit_forward_flops(
        size, vision["patch_size"], image_size=vision["image_size"], classes=embedding
    )


def _text_tower(text: Mapping[str, Any], embedding: int) -> int:
    width: int = text["width"]
    mlp = round(width * text.get("mlp_ratio", 4.0))
    tokens = text["context_length"]
    blocks = transformer_forward_flops(tokens, width=width, depth=text["layers"], mlp=mlp)
    return blocks + 2 * width * embedding
