"""Actors of a Ray cluster, on this host or on many; weights go through its object store.

Needs the extra ``[ray]``. Every host must have the same ``superbatch`` and see the data, and a
reference, under the same paths; relative ones begin in the learner's folder where a host has it.
"""

import time
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayError

from superbatch.actors.actor import Setup, Weights, arrays_of
from superbatch.actors.membership import (
    LOOK_AGAIN,
    Demands,
    Room,
    first_line,
    from_here,
    join,
    leave,
)
from superbatch.actors.news import Answer, Crashed, Died, Found, News, Ready
from superbatch.errors import SuperbatchError
from superbatch.types import Role


@dataclass(frozen=True)
class Published:
    """Weights in the object store. In a list, because Ray would fetch what stands alone."""

    step: int
    weights: list[Any]


@final
class Cluster:
    """A ``Transport`` to actors of a Ray cluster, each of which makes itself by ``setup``.

    Each is placed where ``demands`` are free, and computes in ``threads`` threads. ``weights`` are
    those after ``step``. Without an ``address`` a Ray of its own starts on this host and ends with
    ``close``; "auto" or "HOST:PORT" joins a cluster.
    """

    def __init__(
        self,
        setup: Setup,
        step: int,
        weights: Weights,
        *,
        demands: Demands,
        address: str | None = None,
        threads: int = 1,
    ) -> None:
        self._joined = join(address, demands)
        self._room = Room(demands)
        self._setup = ray.put(from_here(setup))
        self._threads = threads
        self._kind: Any = ray.remote(_Host).options(**demands.options())
        self._handles: dict[int, Any] = {}
        self._beginning: set[int] = set()  # who may be waiting for room
        self._pending: dict[Any, int] = {}  # who is to answer, oldest request first
        self._published = self._put(step, weights)

    def start(self, actor: int) -> None:
        """See ``Transport.start``; it waits, elsewhere, until the cluster has room for it."""
        handle = self._kind.remote(actor, self._setup, self._threads)
        self._handles[actor] = handle
        self._pending[handle.ready.remote()] = actor
        self._beginning.add(actor)

    def ask(self, actor: int, number: int) -> None:
        """See ``Transport.ask``."""
        self._pending[self._handles[actor].answer.remote(number, self._published)] = actor

    def news(self, seconds: float) -> News | None:
        """See ``Transport.news``."""
        if not self._pending:
            time.sleep(min(seconds, _NOBODY_WORKS))
            return None
        if self._beginning:
            self._room.look(len(self._handles))
            seconds = min(seconds, LOOK_AGAIN)
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=max(seconds, 0.0))
        if not done:
            return None
        actor = self._pending.pop(done[0])
        self._beginning.discard(actor)
        try:
            news: News = ray.get(done[0])
        except RayActorError as error:
            return Died(actor, f"Ray lost it ({first_line(error)})")
        except RayError as error:  # of a host that went with what it had found, for example
            return Died(actor, first_line(error))
        return writable(news) if isinstance(news, Found) else news

    def end(self, actor: int) -> None:
        """See ``Transport.end``."""
        ray.kill(self._handles.pop(actor), no_restart=True)
        self._beginning.discard(actor)
        self._pending = {ref: other for ref, other in self._pending.items() if other != actor}

    def publish(self, step: int, weights: Weights) -> None:
        """Have ``weights`` used by all that is asked from now on, if they are newer than what an
        actor has: one copy, which every host fetches once.
        """
        self._published = self._put(step, weights)

    def close(self) -> None:
        """See ``Transport.close``; a Ray that was started for this run ends with it."""
        self._pending = {}
        leave(self._joined, list(self._handles.values()))
        self._joined = False
        self._handles = {}

    def _put(self, step: int, weights: Weights) -> Published:
        return Published(step, [ray.put(arrays_of(weights))])


_NOBODY_WORKS = 0.05  # seconds after which who waits for news of nobody looks again


def writable(found: Found) -> Found:
    """The same in memory of its own: what lies in the object store is everybody's."""
    return replace(
        found,
        examples={name: field.copy() for name, field in found.examples.items()},
        scores=found.scores.copy(),
        losses={role: losses.copy() for role, losses in found.losses.items()},
    )


def lent(array: np.ndarray) -> torch.Tensor:
    """``array`` where it lies, in the memory that a host's actors share; only to be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class _Host:
    """The host of one actor. What it raises it tells as news, so that Ray adds nothing to it."""

    def __init__(self, actor: int, setup: Setup, threads: int) -> None:
        self._actor = actor
        self._setup = setup
        self._threads = threads
        self._working: Any = None
        self._step = -1

    def ready(self) -> News:
        """Open the data and build the models."""
        torch.set_num_threads(self._threads)
        try:
            self._working = self._setup()
        except Exception as error:
            return self._crashed(None, error)
        return Ready(self._actor)

    def answer(self, number: int, published: Published) -> News:
        """Do what ``number`` stands for, with weights as ``published`` or newer."""
        try:
            if published.step > self._step:
                self._load(ray.get(published.weights[0]))
            answer: Answer = self._working.answer(self._actor, number, published.step)
            self._step = max(published.step, answer.weights_step)
        except Exception as error:
            return self._crashed(number, error)
        return answer

    def _load(self, arrays: dict[Role, dict[str, np.ndarray]]) -> None:
        with torch.no_grad():
            for role, tensors in self._working.weights.items():
                for name, tensor in tensors.items():
                    tensor.copy_(lent(arrays[role][name]))

    def _crashed(self, number: int | None, error: Exception) -> Crashed:
        known = error if isinstance(error, SuperbatchError) else None
        told = "".join(traceback.format_exception(error))
        return Crashed(self._actor, number, known, told)
