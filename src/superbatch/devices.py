"""Where models compute: the device that ``--device`` names, and the GPU that is a rank's."""

import ctypes
import os
import sys

import torch

from superbatch.distributed import world
from superbatch.errors import ConfigError


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What glibc's mallopt calls them (mallopt(3))."""
_KEPT, _OF_ONE = 1 << 30, 1 << 28
"""Bytes at the end of the heap that are kept, and the largest block that is part of the heap."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user has chosen otherwise."""


def pick_device(name: str, flag: str = "--device") -> torch.device:
    """The device that ``flag`` names, ready for work; "auto" is a GPU where there is one.

    Of several ranks on a host each gets a GPU of its own. For the CPU `keep_freed_memory`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and world()[1] > 1:
        name = gpu_of_rank(name)
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"{flag} {name} was asked for and this machine has no usable GPU")
        torch.zeros(1, device=device).tolist()  # torch knows more devices than are here
        if device.type == "cpu":
            keep_freed_memory()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"{flag} {name} cannot be used here; cpu always can ({reason})"
        ) from error
    return device


def keep_freed_memory() -> None:
    """Have this process keep what it frees, up to a GB, for its next step.

    By default glibc gives the activations of a step back to the system, which fills them with zeros
    page by page in the next: a fifth of an update's time on a CPU. Nothing happens with another C
    library, or where the environment has chosen these thresholds.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _OF_ONE)
        mallopt(_TRIM_THRESHOLD, _KEPT)


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
