"""What is said between a run and its actors elsewhere, whatever carries it.

A ``Transport`` starts actors, asks them for work by number, and hears ``News`` from them. Actors
score super-batches, or make the updates of a model that learns alone.
Processes of this host are one; anything that passes the same tests is another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from superbatch.errors import SuperbatchError
from superbatch.types import Role


@dataclass(frozen=True)
class Ready:
    """An actor has opened its data and built its models; it may be asked."""

    actor: int


@dataclass(frozen=True)
class Found:
    """Super-batch ``number``, scored by ``actor``. Arrays are numpy's: they travel cheaply.

    ``examples`` are fields of one number an example, always ``"id"`` and ``"draw"``, and what a
    scorer adds for the bank; pixels are read again by draw where they are needed.
    """

    actor: int
    number: int
    examples: Mapping[str, np.ndarray]
    scores: np.ndarray
    losses: Mapping[Role, np.ndarray]
    weights_step: int
    seconds: float
    """From the request to the scores, reading included."""
    skipped: frozenset[int] = frozenset()
    """Ids that were left out because their images are broken."""
    duplicates: int = 0
    """Pairs that came twice, besides those that can be seen in ``examples``."""
    looked_up_in_vain: int = 0
    """Examples that a table of losses lacked, and a model scored."""


@dataclass(frozen=True)
class Studied:
    """Update ``number`` of a model that learns alone, made by ``actor``."""

    actor: int
    number: int
    loss: float
    examples: int
    """How many it learned from."""
    recomputed: bool
    """Whether their forward pass ran twice, to save memory."""
    seconds: float
    """From the request to the update, reading included."""
    skipped: frozenset[int] = frozenset()
    """Ids that were left out because their images are broken."""
    state: Mapping[Role, Mapping[str, np.ndarray]] | None = None
    """All that the update changed; none: it lies in memory that both share."""

    @property
    def weights_step(self) -> int:
        """The update whose weights the actor has now."""
        return self.number


@dataclass(frozen=True)
class Crashed:
    """An actor met an error. It will meet it again, so the run ends."""

    actor: int
    number: int | None
    """What it was at; none: it was not ready yet."""
    error: SuperbatchError | None
    """What the library refused; none: any other error."""
    traceback: str


@dataclass(frozen=True)
class Died:
    """An actor is gone without a word: killed, most likely. Another takes its place."""

    actor: int
    how: str


Answer = Found | Studied
"""What comes of a number."""

News = Ready | Answer | Crashed | Died


@runtime_checkable
class Transport(Protocol):
    """Starts actors somewhere and talks to them. Each has a number of its own, never used again."""

    def start(self, actor: int) -> None:
        """Start an actor; in time it is ``Ready``, or the news is bad. Does not wait."""
        ...

    def ask(self, actor: int, number: int) -> None:
        """Have a ready actor do what ``number`` stands for, after what it was asked before.

        It uses weights no older than those last published before. Does not wait.
        """
        ...

    def news(self, seconds: float) -> News | None:
        """The next news, waited for at most so long; each actor's come in order."""
        ...

    def end(self, actor: int) -> None:
        """End an actor at once, whatever it does, hung or gone too; nothing is heard of it then."""
        ...

    def close(self) -> None:
        """End every actor, and leave nothing behind. May be called again."""
        ...
