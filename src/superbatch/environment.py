"""What a run depends on besides its configuration: the command, code, packages and machine."""

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

import superbatch
from superbatch.distributed import world


def environment(command: list[str], device: torch.device) -> dict[str, Any]:
    """What a run on ``device``, started by ``command``, depends on: for its folder, as JSON."""
    return {
        "command": command,
        "git_commit": git_commit(),
        "superbatch": superbatch.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        # where they are installed; not asked themselves, because importing them takes seconds
        **{
            dist.name: dist.version
            for name in ("torchvision", "timm", "transformers")
            for dist in distributions(name=name)
        },
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": name_of(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": world()[1],
    }


def git_commit() -> str | None:
    """The commit of the checkout that the code is in; none outside of one, or without git."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
    except OSError:  # a host that only runs the code need not have git
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def name_of(device: torch.device) -> str:
    """What ``device`` is called: the GPU's model, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return platform.processor() or platform.machine()
    return str(device)
