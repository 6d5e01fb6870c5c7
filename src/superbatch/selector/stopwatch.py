"""Stopwatch: what the seconds of the last steps were spent on."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


SPENT = ("score", "learn", "turn")
"""Choosing, online learning, and all of a step: from one choice to the next."""


class Stopwatch:
    """Seconds of the last turns, by what they were spent on.

    On CUDA the device itself marks when it begins and ends, so that nothing waits for it. Elsewhere
    ``now`` says what time it is, in seconds.
    """

    def __init__(self, turns: int = 200, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._turns = turns
        self._now = now
        self._spent: dict[str, deque[Any]] = {}
        self._began: float | None = None

    def turn(self) -> None:
        """A new turn begins, and the one before ends."""
        now = self._now()
        if self._began is not None:
            self._of("turn").append(now - self._began)
        self._began = now

    @contextmanager
    def __call__(self, what: str, device: torch.device | None) -> Iterator[None]:
        """The time within is spent on ``what``."""
        if device is None or device.type != "cuda":
            began = self._now()
            yield
            self._of(what).append(self._now() - began)
            return
        with torch.cuda.device(device):
            events = [_event(), _event()]
            events[0].record()
            yield
            events[1].record()
        self._of(what).append(events)

    def median(self, what: str) -> float:
        """Seconds of one turn spent on ``what``; 0 where there was none."""
        spent = self._of(what)
        return statistics.median(map(_seconds, spent)) if spent else 0.0

    def _of(self, what: str) -> deque[Any]:
        return self._spent.setdefault(what, deque(maxlen=self._turns))


def _seconds(spent: Any) -> float:
    if isinstance(spent, float):
        return spent
    begin, end = spent
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1000


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
