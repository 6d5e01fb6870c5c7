"""What a run has around it: who watches, who may stop it, where references are kept."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from superbatch.types import Metrics


@dataclass(frozen=True)
class Status:
    """How far a run is, for whoever shows it."""

    title: str
    step: int
    steps: int
    numbers: Metrics
    unit: str = "steps"
    """What is counted."""


@dataclass(frozen=True)
class Surroundings:
    """What a run has around it: who watches, who may stop it, where references are kept."""

    command: list[str] = field(default_factory=lambda: list(sys.argv))
    watch: Callable[[Status], None] = lambda status: None
    stop: Callable[[], bool] = lambda: False
    references: Path | None = None
    """Folder where references are shared between runs; none: each run trains its own."""

    def reading(self, done: int, total: int) -> None:
        """Tell who watches how many examples have been read that are kept in memory."""
        self.watch(Status("reading", done, total, {}, "examples"))
