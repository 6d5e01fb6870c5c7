"""The run-time form of a table: a memory map of float32 that is indexed by id.

Made from the file on first use, beside it, and used again by whoever opens the same file. Where
ids leave gaps so large that the map would be mostly empty, ids and losses are two maps, and ids
are found by bisection.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from superbatch.errors import RunError
from superbatch.files import cache_folder, write_atomically
from superbatch.tables.file import Piece, TableFile


SPARSE = 3
"""Ids to a row from which on bisection takes less room: 4 bytes an id, or 12 a row."""

_WINDOW = 1_000_000


@runtime_checkable
class Lookup(Protocol):
    """Losses by id."""

    def __call__(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The loss of each id; NaN where there is none. A new array."""
        ...


@dataclass(frozen=True)
class Dense:
    """The loss of id ``first + place`` at ``place``; NaN where there is no such row."""

    first: int
    losses: Float32[np.ndarray, " span"]

    def __call__(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """See `Lookup`."""
        places = ids - self.first
        if len(ids) == 0 or (places.min() >= 0 and places.max() < len(self.losses)):
            found: Float32[np.ndarray, " n"] = self.losses[places]
            return found
        inside = (places >= 0) & (places < len(self.losses))
        return np.where(inside, self.losses[np.where(inside, places, 0)], np.float32(np.nan))


@dataclass(frozen=True)
class Sparse:
    """Ascending ids and their losses."""

    ids: Int64[np.ndarray, " rows"]
    losses: Float32[np.ndarray, " rows"]

    def __call__(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """See `Lookup`."""
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.losses[places], np.float32(np.nan))


def lookup(file: TableFile, column: str) -> Lookup:
    """The run-time form of ``column``, made now if it is not there yet.

    Raises ``DataError`` for a file that is damaged or out of order, ``RunError`` where it can be
    written neither beside the table nor in the user's cache.
    """
    first, last = file.span()
    stamp = file.stamp()
    place = file.columns.index(column)

    def losses() -> Iterator[Piece]:
        return file.pieces([column])

    if last - first < SPARSE * len(file):
        count = last - first + 1
        name = f"{stamp}.{place}.dense.npy"
        written = _dense(losses, column, first)
        return Dense(first, _mapped(file.path, name, np.dtype(np.float32), count, written))
    ids = _mapped(file.path, f"{stamp}.ids.npy", np.dtype(np.int64), len(file), _ids(losses))
    values = _mapped(
        file.path,
        f"{stamp}.{place}.npy",
        np.dtype(np.float32),
        len(file),
        lambda: (piece.losses[column] for piece in losses()),
    )
    return Sparse(ids, values)


def _ids(pieces: Callable[[], Iterator[Piece]]) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (piece.ids for piece in pieces())


def _dense(
    pieces: Callable[[], Iterator[Piece]], column: str, first: int
) -> Callable[[], Iterator[np.ndarray]]:
    """Losses in the order of ids from ``first`` on, the gaps filled with NaN."""

    def values() -> Iterator[np.ndarray]:
        at = first
        for piece in pieces():
            end = int(piece.ids[-1]) + 1
            for start in range(at, end, _WINDOW):
                stop = min(start + _WINDOW, end)
                low, high = np.searchsorted(piece.ids, [start, stop])
                window = np.full(stop - start, np.nan, dtype=np.float32)
                window[piece.ids[low:high] - start] = piece.losses[column][low:high]
                yield window
            at = end

    return values


def _mapped(
    table: Path,
    name: str,
    kind: np.dtype,
    count: int,
    values: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray:
    """The array in the file ``name`` beside ``table``; written from ``values`` if it is absent."""
    for folder in _folders(table):
        if (folder / name).is_file():
            return _opened(folder / name)

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            _write_array(file, kind, count, values())

    refused: OSError | RunError | None = None
    for folder in _folders(table):
        try:
            write_atomically(folder / name, write)
            _forget_others(folder, stamp=name.partition(".")[0])
            return _opened(folder / name)
        except (OSError, RunError) as error:
            refused = error
    raise RunError(
        f"the memory map of {table} can be written neither beside it nor in {_folders(table)[1]} "
        f"({refused}); set SUPERBATCH_CACHE to a folder that can be written"
    ) from refused


def _forget_others(folder: Path, *, stamp: str) -> None:
    """Remove the maps of what the table was before; whoever reads one keeps it while it runs."""
    if folder.suffix == ".maps":
        for old in folder.glob("*.npy"):
            if not old.name.startswith(stamp):
                old.unlink(missing_ok=True)


def _folders(table: Path) -> tuple[Path, Path]:
    """Where the maps of ``table`` may be: beside it, or in the user's cache."""
    return table.with_name(f"{table.name}.maps"), cache_folder("tables")


def _write_array(file: BinaryIO, kind: np.dtype, count: int, values: Iterable[np.ndarray]) -> None:
    # Written, not mapped: a full disk is then an error and not a signal that kills.
    header = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for part in values:
        file.write(np.ascontiguousarray(part, dtype=kind).data)


def _opened(path: Path) -> np.ndarray:
    """The array as a plain one over the map: numpy's subclass makes small reads slow."""
    return np.asarray(np.load(path, mmap_mode="r"))
