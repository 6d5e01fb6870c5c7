"""Actors elsewhere: who scores what, how old weights may be, and what happens when one is lost.

What carries requests and results is a ``Transport``; nothing here knows whether it is processes of
this host or another.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Int64

from superbatch.actors import Scored
from superbatch.actors.duties import ASKED_AT_ONCE, Duties
from superbatch.actors.fleet import Rates
from superbatch.actors.news import Crashed, Died, Found, News, Ready, Transport
from superbatch.clock import Clock
from superbatch.errors import RunError
from superbatch.learner import Learner
from superbatch.types import Metrics, Role


START_LIMIT = 10
"""Time limits that a new actor has to open its data."""

LOST_IN_VAIN = 5
"""Actors lost in a row, for each place, after which the cause is no accident."""

_SHOWN_IDS = 8


@final
class RemoteActors:
    """``count`` actors elsewhere score the super-batches ``numbers``, handed on in that order.

    Where ``count_max`` is more, actors are added while the learner would have to wait for those
    there are, and let go when fewer would do (`fleet_size`).

    Super-batch ``n`` is learned from in step ``needed_at(n)`` and may be scored with the weights of
    step ``needed_at(n) - 1 - max_staleness`` or newer; with 0, of the last update before it. One
    that is asked for is always scored at once.

    An actor that dies, or says nothing of a super-batch for ``timeout`` seconds, is replaced, and
    what it held is scored again; only finished super-batches are handed on, each once. ``ids_of``
    names the examples of a super-batch in messages, and ``arrived`` is told of each that is
    handed on. Raises ``RunError`` where an actor meets an error, or five in a row are lost.
    """

    def __init__(
        self,
        transport: Transport,
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
        self._transport = transport
        self._count = count
        self._most = max(count, count_max or count)
        last, ahead = numbers.stop - 1, ASKED_AT_ONCE * self._most + 1
        self._duties: Duties[Found] = Duties(numbers.start, last, ahead=ahead)
        self._max_staleness = max_staleness
        self._timeout = timeout
        self._step = step
        self._ids_of = ids_of
        self._arrived = arrived
        self._needed_at = needed_at
        self._clock = clock or Clock()
        self._now = now
        self._started = 0
        self._starting: set[int] = set()
        self._since: dict[int, float] = {}  # when an actor last gave a sign, or was given work
        self._rates = Rates()
        self._in_vain = 0
        self.lost = 0
        """Actors that died or hung, and were replaced."""

    def __iter__(self) -> Iterator[Scored]:
        """What was scored, in order."""
        while self._started < self._count:
            self._start()
        with self._clock("starting"):
            while len(self._starting) == len(self._since):
                self._follow()
        while not self._duties.done:
            with self._clock("waiting"):
                found = self._next()
            self._arrived(found)
            begun = self._now()
            yield scored(found)
            self._rates.learned(self._now() - begun)
            self._resize()

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """Have the weights after ``step`` used from now on, and give out what they permit."""
        with self._clock("publication"):
            self._transport.publish(step, trained)
        self._step = step
        while (news := self._transport.news(0.0)) is not None:
            self._hear(news)
        self._give_out()

    def ready(self) -> bool:
        """Whether the next super-batch has been scored, so that nobody would wait for it."""
        while (news := self._transport.news(0.0)) is not None:
            self._hear(news)
        return self._duties.ready

    def close(self) -> None:
        """End every actor."""
        self._transport.close()

    def metrics(self) -> Metrics:
        """What the actors could deliver if nobody made them wait, and how many were lost."""
        ready = len(self._since) - len(self._starting)
        return {
            "actors/count": ready,
            "actors/super_batches_per_second": self._rates.per_second(ready),
            "actors/lost": self.lost,
        }

    def _next(self) -> Found:
        while (found := self._duties.take()) is None:
            self._give_out(self._duties.wanted)
            self._follow()
        self._give_out()
        return found

    def _follow(self) -> None:
        """Hear what there is to hear, or wait for it until somebody's time is up."""
        news = self._transport.news(self._patience())
        while news is not None:
            self._hear(news)
            news = self._transport.news(0.0)
        for actor, left in self._time_left().items():
            if left <= 0:
                limit = self._timeout * (START_LIMIT if actor in self._starting else 1)
                self._lose(actor, f"it said nothing for {limit:g} seconds (--actors.timeout)")

    def _give_out(self, asked: int | None = None) -> None:
        def allowed(number: int) -> bool:
            oldest = self._needed_at(number) - 1 - self._max_staleness
            return number == asked or self._step >= oldest

        while (duty := self._duties.give(allowed)) is not None:
            actor, number = duty
            if len(self._duties.held_by(actor)) == 1:
                self._since[actor] = self._now()
            self._transport.ask(actor, number)

    def _hear(self, news: News) -> None:
        if news.actor not in self._since:
            return  # it was given up before
        self._since[news.actor] = self._now()
        match news:
            case Ready(actor):
                self._starting.remove(actor)
                self._duties.join(actor)
            case Found(actor, number):
                if self._duties.finish(actor, number, news):
                    self._rates.scored(news.seconds)
                    self._in_vain = 0
            case Died(actor, how):
                self._lose(actor, how)
            case Crashed(_, number, error):
                if error is not None:
                    raise error
                raise RunError(f"an actor failed{self._doing(number)}:\n\n{news.traceback}")
        self._give_out()

    def _resize(self) -> None:
        """Add actors, or let go of those that have nothing to do, as the measured rates say."""
        now = len(self._since)
        wanted = self._rates.wanted(now, least=self._count, most=self._most)
        for _ in range(now, wanted):
            self._start()
        idle = [one for one in self._since.keys() - self._starting if not self._duties.held_by(one)]
        for actor in idle[: max(0, now - wanted)]:
            self._transport.end(actor)
            self._duties.leave(actor)
            del self._since[actor]
        if len(self._since) != now:
            self._rates.forget()

    def _start(self) -> None:
        actor = self._started
        self._started += 1
        self._starting.add(actor)
        self._since[actor] = self._now()
        self._transport.start(actor)

    def _lose(self, actor: int, how: str) -> None:
        """Have another take the place of ``actor``, and others what it held."""
        self._transport.end(actor)
        held = self._duties.leave(actor)
        del self._since[actor]
        self._starting.discard(actor)
        self.lost += 1
        self._in_vain += 1
        if self._in_vain >= LOST_IN_VAIN * self._count:
            raise RunError(
                f"{self._in_vain} actors were lost in a row and nothing was scored between; the "
                f"last one{self._doing(held[0] if held else None)}: {how}; try fewer "
                "(--actors.count) or smaller super-batches, and go on with --resume"
            )
        self._start()

    def _doing(self, number: int | None) -> str:
        if number is None:
            return " while it opened the data"
        ids = self._ids_of(number).tolist()
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        names = ", ".join(map(str, ids[:_SHOWN_IDS]))
        return f" while it scored super-batch {number} (ids {names}{more})"

    def _time_left(self) -> dict[int, float]:
        """Seconds until an actor is given up, for each of which something is expected."""
        now = self._now()
        return {
            actor: since + self._timeout * (START_LIMIT if actor in self._starting else 1) - now
            for actor, since in self._since.items()
            if actor in self._starting or self._duties.held_by(actor)
        }

    def _patience(self) -> float:
        return max(0.0, min(self._time_left().values(), default=self._timeout))


def scored(found: Found) -> Scored:
    """What an actor found, as the loop takes it."""
    return Scored(
        {name: torch.from_numpy(field) for name, field in found.examples.items()},
        torch.from_numpy(found.scores),
        {role: torch.from_numpy(losses) for role, losses in found.losses.items()},
        found.weights_step,
    )
