"""Superbatch: train large vision models on data that small models choose."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from superbatch import criterion, selection, tables, tasks
    from superbatch.selector import (
        AutoOff,
        Ramp,
        Schedule,
        SelectingLoader,
        Selection,
        Selector,
        per_example,
    )

__version__ = "0.1.0.dev0"

_ROOMS = ("criterion", "selection", "tables", "tasks")
_FACADE = ("AutoOff", "Ramp", "Schedule", "SelectingLoader", "Selection", "Selector", "per_example")

__all__ = [
    "AutoOff",
    "Ramp",
    "Schedule",
    "SelectingLoader",
    "Selection",
    "Selector",
    "criterion",
    "per_example",
    "selection",
    "tables",
    "tasks",
]


# Torch takes seconds to import; the command line asks for it only where it is needed.
def __getattr__(name: str) -> Any:
    """What most users need, imported when it is first asked for."""
    if name in _ROOMS:
        return importlib.import_module(f"superbatch.{name}")
    if name in _FACADE:
        return getattr(importlib.import_module("superbatch.selector"), name)
    raise AttributeError(f"module 'superbatch' has no attribute {name!r}")
