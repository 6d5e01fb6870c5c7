"""Who scores what: numbers of super-batches given out once, in order, and again where lost."""

from collections.abc import Callable
from typing import Generic, TypeVar, final


T = TypeVar("T")

ASKED_AT_ONCE = 2
"""Numbers that an actor holds: one that it scores, and one so that it need not wait for us."""


@final
class Duties(Generic[T]):
    """The numbers ``first`` to ``last``, each held by one actor until its result has come.

    Results are taken in the order of the numbers. Nobody begins what is ``ahead`` or more beyond
    the next one to be taken: what lies ready only grows old.
    """

    def __init__(self, first: int, last: int, *, ahead: int) -> None:
        self.wanted = first
        """The number whose result is taken next."""
        self._last = last
        self._ahead = ahead
        self._next = first
        self._lost: list[int] = []  # ascending
        self._held: dict[int, list[int]] = {}
        self._results: dict[int, T] = {}

    @property
    def done(self) -> bool:
        """Whether the last result was taken."""
        return self.wanted > self._last

    @property
    def ready(self) -> bool:
        """Whether the wanted result is there."""
        return self.wanted in self._results

    def held_by(self, actor: int) -> tuple[int, ...]:
        """The numbers that ``actor`` holds, in the order in which it was given them."""
        return tuple(self._held.get(actor, ()))

    def join(self, actor: int) -> None:
        """``actor`` may be given numbers."""
        self._held[actor] = []

    def leave(self, actor: int) -> tuple[int, ...]:
        """``actor`` is gone; what it held, which is given to others now."""
        numbers = tuple(self._held.pop(actor, ()))
        self._lost = sorted([*self._lost, *numbers])
        return numbers

    def give(self, allowed: Callable[[int], bool]) -> tuple[int, int] | None:
        """An actor and the lowest number that nobody holds, for it to score, if it is ``allowed``.

        None where there is no such number, or nobody has a hand free.
        """
        actor = min(self._held, key=lambda one: len(self._held[one]), default=None)
        number = self._lost[0] if self._lost else self._next
        if (
            actor is None
            or len(self._held[actor]) >= ASKED_AT_ONCE
            or number > self._last
            or number >= self.wanted + self._ahead
            or not allowed(number)
        ):
            return None
        if self._lost:
            del self._lost[0]
        else:
            self._next += 1
        self._held[actor].append(number)
        return actor, number

    def finish(self, actor: int, number: int, result: T) -> bool:
        """Keep the ``result`` of ``actor`` for ``number``; False, and nothing, if not its duty."""
        if number not in self._held.get(actor, ()):
            return False
        self._held[actor].remove(number)
        self._results[number] = result
        return True

    def take(self) -> T | None:
        """The result of the wanted number; none if it is not there yet."""
        if self.wanted not in self._results:
            return None
        self.wanted += 1
        return self._results.pop(self.wanted - 1)
