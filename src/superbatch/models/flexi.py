"""One set of weights at several patch sizes (FlexiViT, Beyer et al. 2022, arXiv 2212.08013).

A model that has learned at a coarse patch as well as at its own scores cheaply at the coarse one
(Flexi-JEST, Evans et al. 2024, arXiv 2406.17711).
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from superbatch.errors import ConfigError
from superbatch.models.variants import patches_per_side


_PLACES = {
    "timm.models.vision_transformer": ("patch_embed.proj", "pos_embed"),
    "open_clip.transformer": ("conv1", "positional_embedding"),
}
"""Where the ``VisionTransformer`` of a module keeps its patch and its position embedding."""


@dataclass(frozen=True)
class _Tower:
    """A Vision Transformer within a model: where it is, and how it cuts images into tokens."""

    path: str
    convolution: str
    positions: str
    patch: int
    grid: int
    prefix: int
    """Tokens that are no patch and have a position."""


class AtPatch(nn.Module):
    """``model`` seen at patches of ``patch`` pixels: the same forward pass, over other tokens.

    Parameters are the model's own, and gradients reach them. In its one Vision Transformer, timm's
    or open_clip's, the patch embedding gets FlexiViT's pseudo-inverse resize, and the position
    embedding is resampled; at the patch that the model has anyway, nothing changes.

    Raises ``ConfigError`` for a model without exactly one such tower for square images, and for a
    patch that does not divide the image.
    """

    resize: Float[Tensor, "own at"]

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.model = model
        self.patch = patch
        self._tower = _only_tower(model)
        self._grid = patches_per_side(patch, self._tower.grid * self._tower.patch)
        resize = pseudo_inverse_resize(self._tower.patch, patch)
        where = next(model.parameters()).device
        self.register_buffer("resize", resize.to(where), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        """What ``model`` gives, over patches of ``patch`` pixels."""
        return self._at_patch()(*inputs)

    def encode_image(
        self, image: Float[Tensor, "n 3 h w"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """A two-tower model's embeddings of images, over patches of ``patch`` pixels."""
        features: Tensor = self._at_patch().encode_image(image, normalize)
        return features

    def encode_text(
        self, text: Int[Tensor, "n context"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """A two-tower model's embeddings of texts."""
        model: Any = self.model
        features: Tensor = model.encode_text(text, normalize)
        return features

    def _at_patch(self) -> Any:
        """The model with other embeddings: new modules down to them, everything else shared."""
        if self.patch == self._tower.patch:
            return self.model
        tower = _shallow_copy(self.model.get_submodule(self._tower.path))
        positions = tower._parameters[self._tower.positions]
        tower._parameters[self._tower.positions] = self._position_embedding(positions)
        convolution: Any = _shallow_copy(tower.get_submodule(self._tower.convolution))
        convolution.kernel_size = convolution.stride = (self.patch, self.patch)
        convolution._parameters["weight"] = self._patch_embedding(convolution.weight)
        tower = _with(tower, self._tower.convolution, convolution)
        return _with(self.model, self._tower.path, tower)

    def _patch_embedding(
        self, weight: Float[Tensor, "width c own own"]
    ) -> Float[Tensor, "width c at at"]:
        with _full_precision(weight.device):
            resize = self.resize.to(weight)
            resized: Tensor = torch.einsum("ocij,iy,jx->ocyx", weight, resize, resize)
            return resized

    def _position_embedding(
        self, positions: Float[Tensor, "*one tokens width"]
    ) -> Float[Tensor, "*one others width"]:
        from timm.layers.pos_embed import resample_abs_pos_embed  # slow to import

        resampled: Tensor = resample_abs_pos_embed(
            positions.view(1, -1, positions.shape[-1]),
            new_size=[self._grid, self._grid],
            num_prefix_tokens=self._tower.prefix,
            interpolation="bilinear",
        )
        return resampled.view(*positions.shape[:-2], -1, positions.shape[-1])


class MixedResolution(nn.Module):
    """``model`` with the first half of the rows at its own patch, the others at ``patch`` pixels.

    The larger half comes first. What is no row, as a scale, is given once. Embeddings asked for on
    their own are those at the model's own patch. Raises as :class:`AtPatch`.
    """

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.coarse = AtPatch(model, patch)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.coarse.model

    def forward(self, *inputs: Tensor) -> Any:
        """What ``model`` gives, row by row."""
        rows = inputs[0].shape[0]
        half = (rows + 1) // 2
        fine = self.model(*(each[:half] for each in inputs))
        if half == rows:
            return fine
        coarse = self.coarse(*(each[half:] for each in inputs))
        if isinstance(fine, Tensor):
            return torch.cat([fine, coarse])
        return tuple(
            torch.cat(pair) if pair[0].ndim else pair[0] for pair in zip(fine, coarse, strict=True)
        )

    def encode_image(
        self, image: Float[Tensor, "n 3 h w"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """A two-tower model's embeddings of images, at its own patch."""
        model: Any = self.model
        features: Tensor = model.encode_image(image, normalize)
        return features

    def encode_text(
        self, text: Int[Tensor, "n context"], normalize: bool = False
    ) -> Float[Tensor, "n d"]:
        """A two-tower model's embeddings of texts."""
        return self.coarse.encode_text(text, normalize)


def pseudo_inverse_resize(own: int, at: int) -> Float[Tensor, "own at"]:
    """The matrix ``P`` that turns ``own`` weights ``w`` into the ``at`` weights ``w P``.

    It is the pseudo-inverse of the bilinear resize of ``own`` pixels to ``at`` (FlexiViT): of all
    weights, ``w P`` give resized pixels the products nearest to those of ``w`` with the pixels; the
    same ones where ``at`` is larger. A square takes ``P`` along both axes.
    """
    # a row, not a column: torch 2.15 leaves images wrong that are one pixel wide and stay so
    basis = torch.eye(own, dtype=torch.float64).view(own, 1, 1, own)
    resized = F.interpolate(basis, size=(1, at), mode="bilinear", antialias=True)
    inverse: Tensor = torch.linalg.pinv(resized.view(own, at).T)
    return inverse.float()


def _only_tower(model: nn.Module) -> _Tower:
    found = [
        tower
        for path, module in model.named_modules()
        if (tower := _as_tower(path, module)) is not None
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{type(model).__name__} has {len(found)} Vision Transformers for square images whose "
            "patch could be changed, and must have one; choose a model such as Ti/16"
        )
    return found[0]


def _as_tower(path: str, module: Any) -> _Tower | None:
    places = _PLACES.get(type(module).__module__)
    if places is None or type(module).__name__ != "VisionTransformer":
        return None
    patches = getattr(module, "patch_embed", module)  # open_clip's cuts the patches itself
    is_plain = (
        type(patches).__name__ in ("PatchEmbed", "VisionTransformer")
        and len(set(patches.patch_size)) == len(set(patches.grid_size)) == 1
        and getattr(module, places[1]) is not None
        and not getattr(module, "dynamic_img_size", False)
    )
    if not is_plain:
        return None
    # timm may leave the class token without a position
    prefix = (
        0 if getattr(module, "no_embed_class", False) else getattr(module, "num_prefix_tokens", 1)
    )
    return _Tower(path, *places, patches.patch_size[0], patches.grid_size[0], prefix)


def _shallow_copy(module: nn.Module) -> Any:
    """``module`` again, with tables of its own for the same parameters and modules."""
    copied: Any = copy.copy(module)
    copied._parameters = dict(module._parameters)
    copied._modules = dict(module._modules)
    return copied


def _with(module: nn.Module, path: str, leaf: nn.Module) -> nn.Module:
    """``module`` with ``leaf`` at ``path``; ``module`` itself stays as it is."""
    if not path:
        return leaf
    name, _, rest = path.partition(".")
    copied: nn.Module = _shallow_copy(module)
    copied._modules[name] = _with(module.get_submodule(name), rest, leaf)
    return copied


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No autocast, on devices that have it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
