"""Checkpoints: everything with state, whole or absent; and weights that others can load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from superbatch.errors import CheckpointError
from superbatch.files import refusal, write_atomically


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write ``folder/step-<step>.pt``, then remove all but the ``keep`` newest."""
    path = folder / f"step-{step:08d}.pt"

    def write(beside: Path) -> None:
        # Through Python's own file: given a path, torch forgets that the disk was full.
        with beside.open("wb") as file:
            torch.save(dict(state), file)

    write_atomically(path, write)
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` was given. Runs no code of the file's."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if refused := refusal(error):
            raise CheckpointError(f"cannot read {path}: {refused}") from error
        before = [other for other in checkpoints(path.parent) if other < path]
        begin = "continue from the one before" if before else "begin again: there is none before it"
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); remove it to {begin}"
        ) from error
    return state


def save_weights(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Weights as safetensors, with ``about`` (what model they are of) in the header."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    header = {"superbatch": json.dumps(dict(about)), "format": "pt"}
    serialised = save(tensors, metadata=header)

    def write(beside: Path) -> None:
        beside.write_bytes(serialised)

    write_atomically(path, write)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and what they are of; the second is empty for a file that others wrote."""
    try:
        with path.open("rb"):  # safetensors says of any file that it may not open that it is absent
            pass
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        if refused := refusal(error):
            raise CheckpointError(f"cannot read {path}: {refused}") from error
        raise CheckpointError(
            f"{path} cannot be read as safetensors weights ({error}); give a finished run, or its "
            "checkpoints/learner.safetensors"
        ) from error
    return weights, json.loads(header.get("superbatch", "{}"))
