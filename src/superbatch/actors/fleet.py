"""How many actors keep a learner fed, from the seconds that scoring and learning really take."""

import math
from collections import deque
from typing import final


SPARE = 1.15
"""Times vary, and an actor that is a little late would keep the learner waiting."""

WINDOW = 20
"""Super-batches, and updates, whose mean decides."""


def fleet_size(scoring: float, learning: float, *, least: int, most: int) -> int:
    """Actors that deliver a super-batch every ``learning`` seconds.

    Each takes ``scoring`` seconds for one. At least ``least`` and at most ``most``.
    """
    wanted = math.ceil(SPARE * scoring / learning) if learning > 0 else most
    return max(least, min(most, wanted))


@final
class Rates:
    """Seconds that the latest super-batches took to score, and the latest updates to make."""

    def __init__(self) -> None:
        self._scoring: deque[float] = deque(maxlen=WINDOW)
        self._learning: deque[float] = deque(maxlen=WINDOW)

    def scored(self, seconds: float) -> None:
        """An actor took ``seconds`` for a super-batch."""
        self._scoring.append(seconds)

    def learned(self, seconds: float) -> None:
        """The learner took ``seconds``, waiting left out, from one super-batch to the next."""
        self._learning.append(seconds)

    def per_second(self, actors: int) -> float:
        """Super-batches that so many ``actors`` could deliver if nobody made them wait."""
        return actors * len(self._scoring) / sum(self._scoring) if self._scoring else 0.0

    def wanted(self, now: int, *, least: int, most: int) -> int:
        """How many actors there should be where there are ``now``; as many until that is known."""
        if len(self._scoring) < WINDOW or len(self._learning) < WINDOW:
            return max(least, min(most, now))
        scoring, learning = sum(self._scoring) / WINDOW, sum(self._learning) / WINDOW
        return fleet_size(scoring, learning, least=least, most=most)

    def forget(self) -> None:
        """Begin again: what was measured was of another number of actors."""
        self._scoring.clear()
        self._learning.clear()
