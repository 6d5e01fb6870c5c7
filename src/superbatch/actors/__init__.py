"""Actors: who scores super-batches, and where. The loop only sees an iterator of what they scored.

``InlineActor`` scores in this process, exactly in step; it is the primitive. Anything
asynchronous is another iterator with the same contract.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from superbatch.learner import Learner
from superbatch.types import Batch, Metrics, Role


@dataclass(frozen=True)
class Scored:
    """A super-batch with its scores, the losses behind them, and how old the weights were."""

    examples: Batch
    scores: Float[Tensor, " B"]
    losses: Mapping[Role, Float[Tensor, " B"]]
    weights_step: int


@runtime_checkable
class Actors(Protocol):
    """An endless iterator of scored super-batches that can be sent newer weights."""

    def __iter__(self) -> Iterator[Scored]:
        """Scored super-batches, in order where the actors are exact."""
        ...

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """From now on, or soon after, score with the weights of ``trained`` after ``step``."""
        ...

    def metrics(self) -> Metrics:
        """What the actors could deliver if nobody made them wait, and how many were lost."""
        ...

    def close(self) -> None:
        """Free what was taken."""
        ...
