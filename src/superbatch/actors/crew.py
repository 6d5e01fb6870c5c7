"""A crew of actors elsewhere: who does what, and what happens when one is lost.

What carries requests and answers is a ``Transport``; nothing here knows whether it is processes of
this host or another, nor what a number stands for.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from jaxtyping import Int64
from numpy import ndarray

from superbatch.actors.duties import ASKED_AT_ONCE, Duties
from superbatch.actors.fleet import Rates
from superbatch.actors.news import Crashed, Died, Found, News, Ready, Studied, Transport
from superbatch.errors import Failed
from superbatch.types import Metrics


START_LIMIT = 10
"""Time limits that a new actor has to open its data."""

LOST_IN_VAIN = 5
"""Actors lost in a row, for each place, after which the cause is no accident."""

_SHOWN_IDS = 8

A = TypeVar("A", Found, Studied)


@dataclass(frozen=True)
class Words:
    """How a crew's work is named in messages."""

    doing: str
    """What is done with a number, which comes after it: "scored super-batch"."""
    lighter: str
    """How to make it take less: "smaller super-batches"."""
    ids_of: Callable[[int], Int64[ndarray, " n"]]
    """The examples behind a number."""

    def at(self, number: int | None) -> str:
        """What an actor was at; none: it was not ready yet."""
        if number is None:
            return " while it opened the data"
        ids = self.ids_of(number).tolist()
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        names = ", ".join(map(str, ids[:_SHOWN_IDS]))
        return f" while it {self.doing} {number} (ids {names}{more})"


def always(number: int) -> bool:
    """Any number may be given out."""
    return True


@final
class Crew(Generic[A]):
    """``count`` actors elsewhere answer ``numbers``, each once, in that order.

    Nothing beyond ``ahead`` answers is asked for before it is wanted, two for each actor and one if
    that is not given; nor what is not ``allowed``, but for the answer that is waited for. Where
    ``count_max`` is more, ``resize`` adds actors while they are too slow, and lets them go when
    fewer would do (`fleet_size`).

    An actor that dies, or says nothing of a number for ``timeout`` seconds, is replaced, and what
    it held is given out again. Raises ``Failed`` where an actor meets an error, or five for each
    of ``count`` are lost in a row.
    """

    def __init__(
        self,
        transport: Transport,
        words: Words,
        *,
        count: int = 1,
        count_max: int | None = None,
        numbers: range,
        ahead: int | None = None,
        timeout: float,
        allowed: Callable[[int], bool] = always,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._words = words
        self._count = count
        self._most = max(count, count_max or count)
        ahead = ASKED_AT_ONCE * self._most + 1 if ahead is None else ahead
        self._duties: Duties[A] = Duties(numbers.start, numbers.stop - 1, ahead=ahead)
        self._timeout = timeout
        self._allowed = allowed
        self._now = now
        self._started = 0
        self._starting: set[int] = set()
        self._since: dict[int, float] = {}  # when an actor last gave a sign, or was given work
        self._rates = Rates()
        self._in_vain = 0
        self.lost = 0
        """Actors that died or hung, and were replaced."""

    @property
    def done(self) -> bool:
        """Whether the last answer was taken."""
        return self._duties.done

    @property
    def ready(self) -> bool:
        """Whether the next answer is here, as far as has been heard."""
        return self._duties.ready

    def start(self) -> None:
        """Have all there should be at first; does not wait."""
        while self._started < self._count:
            self._start()

    def meet(self) -> None:
        """Wait until one of them is ready."""
        while len(self._starting) == len(self._since):
            self._follow()

    def next(self) -> A:
        """The next answer, waited for; what it permits is given out."""
        while (answer := self._duties.take()) is None:
            self._give_out(self._duties.wanted)
            self._follow()
        self._give_out()
        return answer

    def hear(self) -> None:
        """Hear what there is to hear, without waiting, and give out what is allowed."""
        while (news := self._transport.news(0.0)) is not None:
            self._hear(news)
        self._give_out()

    def resize(self, seconds: float) -> None:
        """Add actors, or let go of those that have nothing to do, as the measured rates say.

        Whoever took the last answer has taken ``seconds`` since, waiting left out.
        """
        self._rates.learned(seconds)
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

    def metrics(self) -> Metrics:
        """What the actors could deliver if nobody made them wait, and how many were lost."""
        ready = len(self._since) - len(self._starting)
        return {
            "actors/count": ready,
            "actors/super_batches_per_second": self._rates.per_second(ready),
            "actors/lost": self.lost,
        }

    def close(self) -> None:
        """End every actor."""
        self._transport.close()

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
            return number == asked or self._allowed(number)

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
            case Died(actor, how):
                self._lose(actor, how)
            case Crashed(_, number, error):
                if error is not None:
                    raise error
                raise Failed(f"an actor failed{self._words.at(number)}:\n\n{news.traceback}")
            case answer:
                if self._duties.finish(answer.actor, answer.number, answer):  # type: ignore[arg-type]
                    self._rates.scored(answer.seconds)
                    self._in_vain = 0
        self._give_out()

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
            raise Failed(
                f"{self._in_vain} actors were lost in a row and nothing came of it between; the "
                f"last one{self._words.at(held[0] if held else None)}: {how}; try "
                f"{self._words.lighter}, and go on with --resume"
            )
        self._start()

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
