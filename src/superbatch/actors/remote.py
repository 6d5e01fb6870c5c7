"""Super-batches that are scored elsewhere: how old weights may be, and what the loop is given."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Int64

from superbatch.actors import Scored
from superbatch.actors.crew import Crew, Words
from superbatch.actors.news import Found, Transport
from superbatch.clock import Clock
from superbatch.learner import Learner
from superbatch.types import Metrics, Role


Publish = Callable[[int, Mapping[Role, Learner]], None]
"""Have the weights after a step, whole, used by all that is asked from now on."""


@dataclass
class _FreshEnough:
    """Whether a super-batch may be scored with the weights of ``step``."""

    step: int
    max_staleness: int
    needed_at: Callable[[int], int]

    def __call__(self, number: int) -> bool:
        return self.step >= self.needed_at(number) - 1 - self.max_staleness


@final
class RemoteActors:
    """A ``Crew`` scores the super-batches ``numbers``, handed on in that order.

    Super-batch ``n`` is learned from in step ``needed_at(n)`` and may be scored with the weights of
    step ``needed_at(n) - 1 - max_staleness`` or newer; with 0, of the last update before it. One
    that is asked for is always scored at once. ``publish`` brings actors newer weights.

    Only finished super-batches are handed on, each once. ``ids_of`` names the examples of a
    super-batch in messages, and ``arrived`` is told of each that is handed on.
    """

    def __init__(
        self,
        transport: Transport,
        publish: Publish,
        *,
        count: int,
        count_max: int | None = None,
        numbers: range,
        max_staleness: int,
        timeout: float,
        step: int,
        ids_of: Callable[[int], Int64[np.ndarray, " n"]],
        arrived: Callable[[Found], None],
        needed_at: Callable[[int], int] = int,
        clock: Clock | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        lighter = "fewer (--actors.count) or smaller super-batches"
        self._fresh_enough = _FreshEnough(step, max_staleness, needed_at)
        self._crew: Crew[Found] = Crew(
            transport,
            Words("scored super-batch", lighter, ids_of),
            count=count,
            count_max=count_max,
            numbers=numbers,
            timeout=timeout,
            allowed=self._fresh_enough,
            now=now,
        )
        self._publish = publish
        self._arrived = arrived
        self._clock = clock or Clock()
        self._now = now

    def __iter__(self) -> Iterator[Scored]:
        """What was scored, in order."""
        self._crew.start()
        with self._clock("starting"):
            self._crew.meet()
        while not self._crew.done:
            with self._clock("waiting"):
                found = self._crew.next()
            self._arrived(found)
            begun = self._now()
            yield scored(found)
            self._crew.resize(self._now() - begun)

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """Have the weights after ``step`` used from now on, and give out what they permit."""
        with self._clock("publication"):
            self._publish(step, trained)
        self._fresh_enough.step = step
        self._crew.hear()

    def ready(self) -> bool:
        """Whether the next super-batch has been scored, so that nobody would wait for it."""
        self._crew.hear()
        return self._crew.ready

    def close(self) -> None:
        """End every actor."""
        self._crew.close()

    def metrics(self) -> Metrics:
        """What the actors could deliver if nobody made them wait, and how many were lost."""
        return self._crew.metrics()


def scored(found: Found) -> Scored:
    """What an actor found, as the loop takes it."""
    return Scored(
        {name: torch.from_numpy(field) for name, field in found.examples.items()},
        torch.from_numpy(found.scores),
        {role: torch.from_numpy(losses) for role, losses in found.losses.items()},
        found.weights_step,
    )
