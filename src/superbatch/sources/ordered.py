"""Examples in an order that was decided before."""

from collections.abc import Iterable
from functools import cached_property
from typing import final

import numpy as np
from jaxtyping import Int64

from superbatch.errors import ConfigError, DataError
from superbatch.sources.stream import Batches, Readable
from superbatch.sources.views import plain
from superbatch.types import View


@final
class OrderedStream(Batches):
    """Batches of ``examples`` in the order of ``rows``, once, without a last batch that is short.

    ``draws`` are the draws that once stood at these positions, so that they are seen as they were
    then; without them the draw at a position is the position. One draw may stand at several
    positions, always with the same row. ``starts`` are the first positions of the batches,
    ascending from 0, where these are not all of ``batch_size``. What else positions and the other
    settings mean, says `Batches`. ``len`` is how many batches there are.
    """

    def __init__(
        self,
        examples: Readable,
        rows: Int64[np.ndarray, " positions"],
        draws: Int64[np.ndarray, " positions"] | None = None,
        starts: Int64[np.ndarray, " batches"] | None = None,
        *,
        batch_size: int,
        view: View = plain,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(
            examples, batch_size=batch_size, view=view, workers=workers, rank=rank, world=world
        )
        if starts is None and len(rows) < batch_size:
            raise ConfigError(
                f"an order of {len(rows)} examples does not fill one batch of {batch_size}; take "
                "smaller batches or a longer order"
            )
        self.rows = rows
        self.draws = draws
        self._bounds = None if starts is None else np.append(starts, len(rows))

    def __len__(self) -> int:
        if self._bounds is not None:
            return len(self._bounds) - 1
        return len(self.rows) // self.batch_size

    def bounds(self, step: int) -> tuple[int, int]:
        """See `Batches.bounds`."""
        if self._bounds is None:
            return super().bounds(step)
        return int(self._bounds[step - 1]), int(self._bounds[step])

    def steps_from(self, first: int) -> Iterable[int]:
        """From ``first`` to the end of the order."""
        return range(first, len(self) + 1)

    def rows_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows at ``positions``."""
        rows: Int64[np.ndarray, " n"] = self.rows[positions]
        return rows

    def draws_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The draws that once stood at ``positions``, or the positions themselves."""
        if self.draws is None:
            return positions
        draws: Int64[np.ndarray, " n"] = self.draws[positions]
        return draws

    def positions_of(self, draws: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """A position for each of ``draws``. Raises ``DataError`` for draws that have none."""
        if self.draws is None:
            found, unknown = draws, (draws < 0) | (draws >= len(self.rows))
        else:
            ascending = self.draws[self._by_draw]
            places = np.searchsorted(ascending, draws).clip(max=len(ascending) - 1)
            found, unknown = self._by_draw[places], ascending[places] != draws
        if unknown.any():
            raise DataError(
                f"draw {draws[unknown][0]} is not in the order ({len(self.rows)} examples); "
                "continue the run with the order that it was started with"
            )
        return found

    @cached_property
    def _by_draw(self) -> Int64[np.ndarray, " positions"]:
        """The positions by their draws, ascending."""
        assert self.draws is not None
        return np.argsort(self.draws, kind="stable")
