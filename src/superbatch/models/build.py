"""Models built by name."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from superbatch.errors import ConfigError
from superbatch.models.conv import ConvNet, parse_conv_name
from superbatch.models.variants import VARIANTS, ViTSize, parse_vit_name, patches_per_side


def build_model(
    name: str, *, image_size: int, channels: int, classes: int, seed: int, dropout: float = 0.0
) -> nn.Module:
    """A new model: images ``Float[n, channels, image_size, image_size]`` to ``Float[n, classes]``.

    ``name`` is ``"SIZE/PATCH"`` from :data:`~superbatch.models.variants.VARIANTS` ("Ti/16",
    "mu-300/4"), which becomes timm's usual ``VisionTransformer`` (weights fit timm's own names);
    ``"conv-WIDTH/STRIDE"`` ("conv-8/2"), a small :class:`~superbatch.models.conv.ConvNet`; or any
    name that timm knows ("resnet18"). Weights are random, drawn from ``seed`` alone; the
    global random state is as it was afterwards. ``classes`` = 0 leaves the head out. ``dropout``
    comes after every attention and MLP layer of a ViT of ours and before any head.

    Raises ``ConfigError`` for a name nobody knows, a patch that does not divide the image, and
    whatever else the architecture refuses.
    """
    vit, conv = parse_vit_name(name), parse_conv_name(name)
    with seeded(seed):
        if conv is not None:
            return ConvNet(conv, channels=channels, classes=classes, dropout=dropout)
        if vit is None:
            return _build_timm(name, image_size, channels, classes, dropout)
        size, patch = vit
        return build_vit(
            size,
            patch,
            image_size=image_size,
            channels=channels,
            classes=classes,
            dropout=dropout,
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: the global random state comes from ``seed``. After: as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it reseeds GPUs as well
        yield


def build_vit(
    size: ViTSize, patch: int, *, image_size: int, channels: int, classes: int, dropout: float = 0.0
) -> nn.Module:
    """timm's usual ``VisionTransformer`` of that size, drawn from the global random state."""
    from timm.models.vision_transformer import VisionTransformer  # slow to import

    patches_per_side(patch, image_size)
    model: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp / size.width,
        drop_rate=dropout,
        proj_drop_rate=dropout,
    )
    return model


def _build_timm(
    name: str, image_size: int, channels: int, classes: int, dropout: float
) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise _unknown(name, timm.list_models())
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if dropout:
        options["drop_rate"] = dropout
    default = timm.get_pretrained_cfg(name)
    if default is not None and default.fixed_input_size:
        options["img_size"] = image_size
    model: nn.Module
    try:
        model = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm's {name} cannot be built for {channels} x {image_size} x {image_size} images "
            f"and {classes} classes: {error}"
        ) from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (0,))
    if max(patch) > image_size:
        raise ConfigError(
            f"timm's {name} cuts images into patches of {max(patch)} pixels a side and images have "
            f"{image_size}; give --data.image-size {max(patch)} or more, or another model"
        )
    return model


def _unknown(name: str, timm_names: list[str]) -> ConfigError:
    ours = [f"{size}/{patch}" for size in VARIANTS for patch in (4, 8, 16)]
    return ConfigError(
        f"no model is called {name!r}{did_you_mean(name, ours + timm_names)}; a name is SIZE/PATCH "
        f"with one of the sizes {', '.join(VARIANTS)}, conv-WIDTH/STRIDE, or a model of timm"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remark for an error, with the nearest of the ``known`` names; empty if none is near."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
