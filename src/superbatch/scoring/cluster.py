"""Scoring on a Ray cluster: each actor opens the data and the models itself, and takes the next
block that nobody has. Finished blocks come back and are written here, so that they are those of
one process, whatever hosts they were scored on, and a kill loses none of them.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from superbatch.actors.membership import (
    LOOK_AGAIN,
    Demands,
    Room,
    first_line,
    from_here,
    join,
    leave,
)
from superbatch.config import RaySettings
from superbatch.errors import Failed, SuperbatchError
from superbatch.scoring.blocks import Job, Parts, score


LOST_IN_VAIN = 3
"""Times that a block's actor may be lost before the cause is taken to be the block."""


def score_on_ray(
    setup: Callable[[], Job],
    parts: Parts,
    numbers: Sequence[int],
    *,
    count: int,
    progress: Callable[[int], None],
    settings: RaySettings,
) -> None:
    """Score the blocks ``numbers`` into ``parts`` by ``count`` actors of a Ray cluster.

    ``setup`` must be picklable; each actor calls it once. ``progress`` is told rows as blocks
    finish. An actor that is lost is replaced and its block scored again. Raises the first actor's
    error, or ``Failed`` where a block's actors are lost three times; finished blocks stay.
    """
    demands = Demands(settings.cpus, settings.gpus, settings.resource)
    joined, room = join(settings.address, demands), Room(demands)
    actor: Any = ray.remote(_Scorer).options(**demands.options())
    left, lost = list(reversed(numbers)), dict.fromkeys(numbers, 0)
    busy: dict[Any, tuple[Any, int]] = {}

    def begin(handle: Any) -> None:
        if left:
            number = left.pop()
            busy[handle.score.remote(number)] = (handle, number)

    try:
        stored = ray.put(from_here(setup))
        for _ in range(min(count, len(numbers))):
            begin(actor.remote(stored))
        while busy:
            room.look(len(busy))
            done, _ = ray.wait(list(busy), num_returns=1, timeout=LOOK_AGAIN)
            if not done:
                continue
            handle, number = busy.pop(done[0])
            try:
                outcome = ray.get(done[0])
            except RayError as error:  # its actor, or what it had found, is gone
                lost[number] += 1
                if lost[number] == LOST_IN_VAIN:
                    raise Failed(_in_vain(number, error)) from error
                left.append(number)
                handle = actor.remote(stored)
            else:
                _keep(parts, number, outcome, progress)
            begin(handle)
    finally:
        leave(joined, [handle for handle, _ in busy.values()])


def _in_vain(number: int, error: RayError) -> str:
    return (
        f"block {number} lost its actor {LOST_IN_VAIN} times ({first_line(error)}); give the same "
        "command again to go on from the finished blocks, perhaps with a smaller --batch-size"
    )


def _keep(parts: Parts, number: int, outcome: Any, progress: Callable[[int], None]) -> None:
    match outcome:
        case SuperbatchError():
            raise outcome
        case str():
            raise Failed(f"an actor failed while it scored block {number}:\n\n{outcome}")
    table, rows = outcome
    parts.write(number, table)
    progress(rows)


class _Scorer:
    """The host of one actor: a block as a table, and its rows; or what it met, told as a value."""

    def __init__(self, setup: Callable[[], Job]) -> None:
        self._setup = setup
        self._job: Job | None = None

    def score(self, number: int) -> tuple[pa.Table, int] | SuperbatchError | str:
        """Score block ``number``."""
        kept = _Kept()
        rows: list[int] = []
        try:
            self._job = self._job or self._setup()
            score(self._job, kept, [number], rows.append)
        except SuperbatchError as error:
            return error
        except Exception as error:
            return "".join(traceback.format_exception(error))
        return kept.table, sum(rows)


class _Kept:
    """Keeps the one block that is written to it."""

    table: pa.Table

    def write(self, number: int, table: pa.Table) -> None:
        """See ``Parts.write``."""
        self.table = table
