"""Models of images and texts: two towers that meet in one space (CLIP, SigLIP)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from superbatch.errors import ConfigError
from superbatch.models.build import build_vit, did_you_mean, seeded
from superbatch.models.exchange import (
    OpenClipTowers,
    import_open_clip,
    is_open_clip_name,
    read_open_clip,
)
from superbatch.models.export import describe
from superbatch.models.variants import OPEN_CLIP, VARIANTS, ViTSize, parse_two_tower_name


_SMALLEST_EMBEDDING = 64
_SOFTMAX_SCALE = math.log(1 / 0.07)  # CLIP: Radford et al. 2021, arXiv 2103.00020
_SIGMOID_SCALE, _SIGMOID_BIAS = math.log(10.0), -10.0  # SigLIP: Zhai et al. 2023, arXiv 2303.15343


class TwoTower(nn.Module):
    """Images and texts as vectors of length one, with the scale and the bias of their logits.

    ``visual`` takes images in [-1, 1], ``text`` token ids; both give vectors of the same width.
    ``logit_scale`` is a logarithm, at first ln(1/0.07); with ``sigmoid`` it is ln 10, and there is
    a ``logit_bias`` of -10, which is None otherwise. ``open_clip_config`` is what open_clip's
    ``open_clip_config.json`` says of the same model.
    """

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module,
        *,
        sigmoid: bool,
        open_clip_config: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.visual = visual
        self.text = text
        self.open_clip_config = open_clip_config
        self.logit_scale = nn.Parameter(torch.tensor(_SIGMOID_SCALE if sigmoid else _SOFTMAX_SCALE))
        self.logit_bias = nn.Parameter(torch.tensor(_SIGMOID_BIAS)) if sigmoid else None

    def encode_image(
        self, image: Float[Tensor, "n 3 h w"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """Embeddings of images in [-1, 1]; of length one if ``normalize``."""
        features: Tensor = self.visual(image)
        return _unit(features) if normalize else features

    def encode_text(
        self, text: Int[Tensor, "n context"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """Embeddings of texts, which are token ids; of length one if ``normalize``."""
        features: Tensor = self.text(text)
        return _unit(features) if normalize else features

    def forward(
        self, image: Float[Tensor, "n 3 h w"], text: Int[Tensor, "n context"]
    ) -> tuple[Tensor, ...]:
        """Both embeddings, of length one; the scale, no logarithm; the bias if there is one."""
        image_features = self.encode_image(image, normalize=True)
        text_features = self.encode_text(text, normalize=True)
        scale = self.logit_scale.exp()
        if self.logit_bias is None:
            return image_features, text_features, scale
        return image_features, text_features, scale, self.logit_bias


def _unit(features: Tensor) -> Tensor:
    # in bf16 a length could be off by a hundredth
    wide = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.to(wide), dim=-1)


def build_two_tower(
    name: str,
    *,
    image_size: int,
    context: int,
    vocabulary: int,
    sigmoid: bool,
    seed: int,
    embedding: int | None = None,
) -> TwoTower:
    """A model of images of ``image_size`` pixels a side and texts of ``context`` token ids.

    ``name`` is

    * ``"Ti/16"``, timm's ViT and open_clip's text transformer of the same size; or
      ``"Ti/16+mu-600"``, a text transformer of another (it dominates what a small model costs);
    * ``"open_clip:ViT-B-32"`` or a JSON file, open_clip's architectures: random weights;
    * a folder that open_clip can read, with or without ``"local-dir:"`` before it: its weights.

    Random weights come from ``seed`` alone; the global random state is as it was afterwards. Both
    towers end ``embedding`` wide: by default as the narrower tower, but at least 64; open_clip's
    architectures say themselves. Weights come with their scale and bias, but where ``sigmoid``
    wants a bias and there is none, both start as published.

    Raises ``ConfigError`` for a name nobody knows and for sizes that the architecture does not
    have, ``CheckpointError`` for weights that are missing, broken or of another model.
    """
    sizes = {"image_size": image_size, "context": context, "vocabulary": vocabulary}
    for what, given in sizes.items():
        if given < 1:
            raise ConfigError(f"{what} ({given}) must be at least 1")
    with seeded(seed):
        ours = parse_two_tower_name(name)
        if ours is not None:
            image, patch, text = ours
            width = _embedding(embedding, image, text)
            visual = _image_tower(image, patch, image_size, width)
            text_tower = _text_tower(text, context, vocabulary, width)
            config = describe(visual, text_tower)
            return TwoTower(visual, text_tower, sigmoid=sigmoid, open_clip_config=config)
        if not is_open_clip_name(name):
            raise _unknown(name)
        towers = read_open_clip(name)
    _check_sizes(name, towers, sizes if embedding is None else {**sizes, "embedding": embedding})
    return _from_open_clip(towers, sigmoid)


def _embedding(asked: int | None, image: ViTSize, text: ViTSize) -> int:
    if asked is None:
        return max(_SMALLEST_EMBEDDING, min(image.width, text.width))
    if asked < 1:
        raise ConfigError(f"embedding ({asked}) must be at least 1")
    return asked


def _image_tower(size: ViTSize, patch: int, image_size: int, embedding: int) -> nn.Module:
    tower = build_vit(size, patch, image_size=image_size, channels=3, classes=embedding)
    head = nn.Linear(size.width, embedding, bias=False)
    nn.init.normal_(head.weight, std=size.width**-0.5)  # as open_clip's projections
    tower.head = head
    return tower


def _text_tower(size: ViTSize, context: int, vocabulary: int, embedding: int) -> nn.Module:
    tower: nn.Module = import_open_clip().transformer.TextTransformer(
        context_length=context,
        vocab_size=vocabulary,
        width=size.width,
        heads=size.heads,
        layers=size.depth,
        mlp_ratio=size.mlp / size.width,
        output_dim=embedding,
    )
    return tower


def _check_sizes(name: str, towers: OpenClipTowers, wanted: Mapping[str, int]) -> None:
    for what, given in wanted.items():
        own = towers.sizes[what]
        if own != given:
            raise ConfigError(
                f"{name} was made for {what} = {own}, and {given} is asked for; ask for {own}, or "
                "choose another model"
            )


def _from_open_clip(towers: OpenClipTowers, sigmoid: bool) -> TwoTower:
    model = TwoTower(towers.visual, towers.text, sigmoid=sigmoid, open_clip_config=towers.config)
    scale, bias = towers.logit_scale, towers.logit_bias
    if scale is None or (sigmoid and bias is None):
        return model  # a softmax's temperature means nothing to a sigmoid
    with torch.no_grad():
        model.logit_scale.copy_(scale.squeeze())
        if model.logit_bias is not None and bias is not None:
            model.logit_bias.copy_(bias.squeeze())
    return model


def _unknown(name: str) -> ConfigError:
    image_names = [f"{size}/{patch}" for size in VARIANTS for patch in (4, 8, 16, 32)]
    known = image_names + [f"{image}+{text}" for image in image_names for text in VARIANTS]
    known += [OPEN_CLIP + model for model in import_open_clip().list_models()]
    return ConfigError(
        f"no two-tower model is called {name!r}{did_you_mean(name, known)}; a name is SIZE/PATCH "
        f"or SIZE/PATCH+SIZE with the sizes {', '.join(VARIANTS)}, {OPEN_CLIP}NAME, a JSON file of "
        "open_clip's, or a folder that it can read"
    )
