"""Where models compute: the device that ``--device`` names, and the GPU that is a rank's."""

import os

import torch

from superbatch.distributed import world
from superbatch.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device that ``--device`` names; "auto" is a GPU where there is one.

    Of several ranks on a host each gets a GPU of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and world()[1] > 1:
        name = gpu_of_rank(name)
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device {name} was asked for and this machine has no usable GPU")
        torch.zeros(1, device=device).tolist()  # torch knows more devices than are here
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"--device {name} cannot be used here; cpu always can ({reason})"
        ) from error
    return device


def gpu_of_rank(name: str) -> str:
    """The GPU of this rank. Raises ``ConfigError`` where the host has fewer GPUs than ranks."""
    place = int(os.environ.get("LOCAL_RANK", world()[0]))
    if name != "cuda":
        raise ConfigError(
            f"--device {name} is one GPU and there are {world()[1]} ranks; with --device cuda each "
            "takes its own"
        )
    if place >= torch.cuda.device_count():
        raise ConfigError(
            f"this host has {torch.cuda.device_count()} GPUs and more ranks; start as many as "
            "there are with --nproc-per-node, or give --device cpu"
        )
    torch.cuda.set_device(place)
    return f"cuda:{place}"
