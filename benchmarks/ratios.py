"""Ratios of times, measured in alternation in one process: what drifts, drifts for both."""

import statistics
import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    """One call, timed."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = 15) -> float:
    """The median over ``rounds`` of ours / theirs, each pair timed back to back; one warm-up."""
    ours(), theirs()
    return statistics.median(seconds(ours) / seconds(theirs) for _ in range(rounds))


def verdict(what: str, measured: float, limit: float) -> bool:
    """Print a measurement against its limit; whether it holds."""
    holds = measured <= limit
    print(f"{what}: {measured:.3g} (limit {limit:g}) {'ok' if holds else 'TOO MUCH'}")
    return holds
