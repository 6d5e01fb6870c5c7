"""Two-tower models from open_clip: architectures, configurations, weights."""

import copy
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from superbatch.errors import CheckpointError, ConfigError
from superbatch.models.build import did_you_mean
from superbatch.models.variants import OPEN_CLIP


_LOCAL_DIR = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
_OTHER_WEIGHTS = (  # the names that open_clip looks for, in its order
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)


class Renormalised(nn.Module):
    """``tower`` for images in [-1, 1], where it wants ``(pixel - mean) / std`` of pixels in [0, 1].

    ``mean`` and ``std`` have one value for each channel.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, tower: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.tower = tower
        means, stds = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("gain", 0.5 / stds, persistent=False)
        self.register_buffer("offset", (0.5 - means) / stds, persistent=False)

    def forward(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """The embeddings that ``tower`` gives."""
        features: Tensor = self.tower(image * self.gain + self.offset)
        return features


@dataclass(frozen=True)
class OpenClipTowers:
    """What a model of open_clip consists of.

    ``visual`` takes images in [-1, 1]. ``config`` is the ``open_clip_config.json`` of the model;
    ``logit_scale`` and ``logit_bias`` are None where no weights were read.
    """

    visual: nn.Module
    text: nn.Module
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    """image_size, context, vocabulary and embedding."""
    logit_scale: Tensor | None = None
    logit_bias: Tensor | None = None


def import_open_clip() -> Any:
    """The package, or a ``ConfigError`` that says how to get it."""
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            "models of images and texts need the open_clip_torch package; install superbatch[clip]"
        ) from error
    return open_clip


def open_clip_config(name: str) -> dict[str, Any]:
    """The architecture of open_clip's ``name`` ("ViT-B-32"), as its JSON file has it.

    Raises ``ConfigError`` with the nearest names if there is none.
    """
    open_clip = import_open_clip()
    # not get_model_config: that goes to the network for some names
    if name not in open_clip.list_models():
        raise ConfigError(
            f"open_clip has no model {name!r}{did_you_mean(name, open_clip.list_models())}; "
            "open_clip.list_models() has the names"
        )
    config: dict[str, Any] = open_clip.get_model_config(name)
    return config


def is_open_clip_name(name: str) -> bool:
    """Whether ``name`` is for :func:`read_open_clip`: a prefix, a JSON file, or a folder."""
    return name.startswith((OPEN_CLIP, _LOCAL_DIR)) or name.endswith(".json") or Path(name).is_dir()


def read_open_clip(name: str) -> OpenClipTowers:
    """The towers that ``name`` stands for; weights from the folder, or random ones.

    ``name`` is ``"open_clip:ViT-B-32"``, a JSON file, or a folder, with or without "local-dir:".
    Nothing is ever downloaded. Raises ``ConfigError`` and ``CheckpointError``.
    """
    if name.startswith(OPEN_CLIP):
        return _towers(name, _whole(open_clip_config(name.removeprefix(OPEN_CLIP))))
    path = Path(name.removeprefix(_LOCAL_DIR))
    if name.endswith(".json") and not path.is_dir():
        return _towers(name, _read_config(path))
    return _towers(name, _read_config(path / CONFIG_FILE), weights=weights_in(path))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as a configuration of open_clip: {error}"
        ) from error
    if isinstance(config, dict):
        config = _whole(config)
        architecture = config["model_cfg"]
        towers = architecture.get("vision_cfg"), architecture.get("text_cfg")
        if "embed_dim" in architecture and all(isinstance(tower, dict) for tower in towers):
            return config
    raise ConfigError(
        f"{path} is no configuration of open_clip, which has embed_dim, vision_cfg and text_cfg"
    )


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """An architecture alone gets the frame that open_clip_config.json has."""
    return config if isinstance(config.get("model_cfg"), dict) else {"model_cfg": config}


def weights_in(folder: Path) -> Path:
    """The weights that open_clip would take from ``folder``; ``CheckpointError`` without any."""
    for name in (WEIGHTS_FILE, *_OTHER_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} holds no weights that open_clip would find, such as {WEIGHTS_FILE}"
    )


def _towers(name: str, config: dict[str, Any], weights: Path | None = None) -> OpenClipTowers:
    open_clip = import_open_clip()
    model = _random_model(name, copy.deepcopy(config["model_cfg"]))
    if weights is not None:
        _load(model, weights)
    preprocessing = config.get("preprocess_cfg", {})
    mean = list(preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN))
    std = list(preprocessing.get("std", open_clip.OPENAI_DATASET_STD))
    image_size = model.visual.image_size
    if isinstance(image_size, tuple):
        if len(set(image_size)) > 1:
            raise ConfigError(f"{name} is for images of {image_size} pixels; only squares are fed")
        image_size = image_size[0]
    return OpenClipTowers(
        Renormalised(model.visual, mean, std),
        model.text,
        {**config, "preprocess_cfg": {**preprocessing, "mean": mean, "std": std}},
        {
            "image_size": image_size,
            "context": model.text.context_length,
            "vocabulary": model.text.vocab_size,
            "embedding": config["model_cfg"]["embed_dim"],
        },
        None if weights is None else model.logit_scale.detach(),
        None if weights is None or model.logit_bias is None else model.logit_bias.detach(),
    )


def _random_model(name: str, architecture: dict[str, Any]) -> Any:
    """open_clip's class for both towers, whatever it would choose itself: weights fit any."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    if "hf_model_name" in text or "multimodal_cfg" in architecture:
        raise ConfigError(
            f"{name} is not two towers of open_clip's own: its text tower is of another package, "
            "or it writes captions as well; choose a CLIP or SigLIP model"
        )
    vision["timm_model_pretrained"] = False  # nothing is downloaded
    try:
        return import_open_clip().CustomTextCLIP(
            embed_dim=architecture["embed_dim"],
            vision_cfg=vision,
            text_cfg=text,
            quick_gelu=architecture.get("quick_gelu", False),
            init_logit_bias=architecture.get("init_logit_bias"),
        )
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be built by open_clip: {error}") from error


_UNFIT = (AssertionError, KeyError, OSError, RuntimeError, ValueError)
_BROKEN = (SafetensorError, pickle.UnpicklingError)


def _load(model: nn.Module, weights: Path) -> None:
    try:
        import_open_clip().load_checkpoint(model, str(weights))
    except (*_UNFIT, *_BROKEN) as error:
        raise CheckpointError(
            f"{weights} does not fit the configuration beside it, or is broken: {error}"
        ) from error
