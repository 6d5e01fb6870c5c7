"""Rows: what a bank knows of each example, in the order of arrival."""

from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@final
class Rows:
    """Columns with room for ``2 * capacity`` rows, of which at most ``capacity`` are alive.

    Rows are appended at the end; those that die are left where they are until there is no more
    room at the end, and are then closed up. So the order stays that of arrival, and a row costs the
    same however many there are: at least ``capacity`` are appended between two closings.

    A column is where its first values were. Row numbers hold until the next ``append``.
    """

    def __init__(self, capacity: int) -> None:
        self._room = 2 * capacity
        self._start = 0  # no row before it is alive
        self._end = 0
        self._alive = torch.zeros(self._room, dtype=torch.bool)
        self._count = 0
        self._columns: dict[str, Tensor] = {}
        self._found: Int[Tensor, " n"] | None = None  # the rows that are alive, once looked for

    def __len__(self) -> int:
        """How many are alive."""
        return self._count

    def names(self) -> list[str]:
        """Of the columns that there are."""
        return list(self._columns)

    def __getitem__(self, name: str) -> Tensor:
        """The column ``name``, by row number; to be read, or written where rows are alive."""
        return self._columns[name]

    def alive(self) -> Int[Tensor, " n"]:
        """The rows that are alive, oldest first, on the CPU."""
        if self._found is None:
            self._found = self._start + places(self._alive[self._start : self._end])
        return self._found

    def at(self, index: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """The rows that stand at ``index``, on the CPU, among those that are alive."""
        return self._start + index if self._whole else self.alive()[index]

    def values(self, name: str) -> Tensor:
        """A copy of the column ``name`` of all that are alive, oldest first."""
        column = self._columns[name]
        if self._whole:
            return column[self._start : self._end].clone()
        return column.index_select(0, self.alive().to(column.device))

    @property
    def _whole(self) -> bool:
        """Whether no row between the first and the last is dead."""
        return self._count == self._end - self._start

    def oldest(self, count: int) -> Int[Tensor, " m"]:
        """The ``count`` oldest that are alive, or all."""
        width = count
        while True:  # as far as it takes, and not through all rows
            stop = min(self._start + width, self._end)
            found = places(self._alive[self._start : stop])
            if len(found) >= count or stop == self._end:
                return self._start + found[:count]
            width *= 2

    def below(self, name: str, value: int) -> Int[Tensor, " m"]:
        """Those alive whose column ``name``, on the CPU, is below ``value``."""
        window = slice(self._start, self._end)
        return self._start + places(self._alive[window] & (self._columns[name][window] < value))

    def up_to(self, name: str, value: int) -> Int[Tensor, " m"]:
        """Those alive whose column ``name``, which never falls, is at most ``value``."""
        column = self._columns[name][self._start : self._end]
        stop = int(torch.searchsorted(column, value, right=True))
        return self._start + places(self._alive[self._start : self._start + stop])

    def append(self, count: int, **values: Tensor | int) -> None:
        """``count`` rows more, alive, newer than all others; a number is the same for each."""
        if self._count == 0:
            self._start = self._end = 0
        if self._end + count > self._room:
            self._close_up()
        self._found = None
        stop = self._end + count
        for name, value in values.items():
            if name not in self._columns:
                first = torch.as_tensor(value)
                self._columns[name] = torch.empty(
                    self._room, dtype=first.dtype, device=first.device
                )
            self._columns[name][self._end : stop] = value
        self._alive[self._end : stop] = True
        self._end = stop
        self._count += count

    def kill(self, rows: Int[Tensor, " m"]) -> None:
        """``rows``, ascending and alive, are not any more."""
        if len(rows) == 0:
            return
        self._found = None
        self._alive[rows] = False
        self._count -= len(rows)
        self._start = int(self.oldest(1)) if self._count else self._end

    def clear(self) -> None:
        """No row is left, and no column."""
        self._start = self._end = self._count = 0
        self._alive[:] = False
        self._found = None
        self._columns = {}

    def _close_up(self) -> None:
        rows = self.alive()
        for column in self._columns.values():
            column[: len(rows)] = column.index_select(0, rows.to(column.device))
        self._alive[: len(rows)] = True
        self._alive[len(rows) :] = False
        self._start, self._end = 0, len(rows)


def places(mask: Bool[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Where ``mask``, which is on the CPU, is true. torch's own ``nonzero`` is ten times slower."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
