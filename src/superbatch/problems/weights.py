"""Weights on disk, checked against the data before they are used."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from superbatch.checkpoint import load_weights
from superbatch.checks import LEARNS
from superbatch.errors import CheckpointError
from superbatch.models.exchange import weights_in


def is_open_clip(path: str) -> bool:
    """Whether ``path`` is a model as open_clip keeps it: a folder with its configuration."""
    place = Path(path.removeprefix("local-dir:"))
    return (place / "open_clip_config.json").is_file()


def weights_path(path: str) -> Path:
    """The weights that ``path`` means: a .safetensors file, or those of a finished run."""
    given = Path(path)
    found = given / "checkpoints" / "learner.safetensors" if given.is_dir() else given
    if not found.is_file():
        reason = "no finished run is there" if given.is_dir() else "there is no such file"
        raise CheckpointError(f"cannot read weights from {path}: {reason}")
    return found


def weights_hash(path: str) -> str:
    """SHA-256 of the weights file that ``path`` means."""
    if is_open_clip(path):
        found = weights_in(Path(path.removeprefix("local-dir:")))
    else:
        found = weights_path(path)
    with found.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checked(
    path: str,
    here: Mapping[str, Any],
    words: Mapping[str, str],
    build: Callable[[str], nn.Module],
) -> nn.Module:
    """The model in ``path``, built by its name in the file's header, or by that ``here``.

    ``words`` names, for each fact that the data decides, what it counts. Raises
    ``CheckpointError`` where the header and ``here`` differ in one of them, or in the task.
    """
    weights, about = load_weights(weights_path(path))
    learned, wanted = about.get("task", "classification"), here.get("task")
    if about and wanted not in (None, learned):
        raise CheckpointError(
            f"{path} has learned {LEARNS[learned]} and this is about {LEARNS[wanted]}; give a "
            "checkpoint of the same kind"
        )
    for name, word in words.items():
        if about and about.get(name) != here[name]:
            raise CheckpointError(
                f"{path} is a model of {about.get(name)} {word} and the data has {here[name]}; "
                "give a checkpoint that was trained on data of the same kind"
            )
    name = about.get("model", here["model"])
    model = build(name)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {name}: {str(error).splitlines()[1].strip()}"
        ) from error
    return model
