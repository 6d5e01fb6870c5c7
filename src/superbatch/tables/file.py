"""The file that people exchange: parquet, sorted by id, with its provenance. See docs/formats.md.

Nothing here holds a whole table: files are written and read in pieces of a million rows.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TypeVar, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from superbatch.errors import DataError
from superbatch.files import refusal, write_atomically
from superbatch.tables.provenance import Provenance, parsed


KEY = b"superbatch"
"""The key of the schema metadata under which the provenance is."""
LOSS = "loss"
"""The column of the only model's losses; of several models, ``loss/NAME`` each."""
ROWS = 1_000_000
"""Rows of a row group."""

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """Rows that follow each other: ids ascending, and each column's losses."""

    ids: Int64[np.ndarray, " n"]
    losses: Mapping[str, Float32[np.ndarray, " n"]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: slice | np.ndarray) -> "Piece":
        """The rows ``rows`` only."""
        return Piece(self.ids[rows], {name: loss[rows] for name, loss in self.losses.items()})


def joined(pieces: Sequence[Piece]) -> Piece:
    """The rows of all ``pieces`` (at least one) in order."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        np.concatenate([piece.ids for piece in pieces]),
        {
            name: np.concatenate([piece.losses[name] for piece in pieces])
            for name in pieces[0].losses
        },
    )


def write_table(path: Path, provenance: Provenance, pieces: Iterable[Piece]) -> None:
    """Write the rows of ``pieces`` to ``path``, atomically, in row groups of a million.

    Raises ``DataError`` for ids that do not ascend and losses that are not finite, ``RunError``
    where the disk refuses.
    """
    columns = list(provenance.columns)
    schema = pa.schema(
        [pa.field("id", pa.int64(), nullable=False)]
        + [pa.field(name, pa.float32(), nullable=False) for name in columns],
        metadata={KEY: provenance.model_dump_json().encode()},
    )

    def write(beside: Path) -> None:
        with beside.open("wb") as file, _writer(file, schema, columns) as writer:
            for piece in regrouped(checked(str(path), pieces), ROWS):
                arrays = [piece.ids, *(piece.losses[name] for name in columns)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), ROWS)

    write_atomically(path, write)


def _writer(file: object, schema: pa.Schema, columns: Sequence[str]) -> pq.ParquetWriter:
    # Ids that count upwards take next to nothing as deltas; the exponents of losses are alike, and
    # zstd sees that once the four bytes of a float are in four streams (3.5 bytes a row in all).
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=False,
        column_encoding={
            "id": "DELTA_BINARY_PACKED",
            **dict.fromkeys(columns, "BYTE_STREAM_SPLIT"),
        },
        write_page_checksum=True,
    )


def regrouped(pieces: Iterable[Piece], rows: int) -> Iterator[Piece]:
    """The same rows in pieces of exactly ``rows``; the last may have fewer."""
    waiting: list[Piece] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        while count >= rows:
            whole = joined(waiting)
            yield whole.take(slice(0, rows))
            waiting, count = [whole.take(slice(rows, None))], count - rows
    if count:
        yield joined(waiting)


def checked(where: str, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """``pieces``, each after a look: ids ascend, across pieces too, and losses are finite."""
    last: int | None = None
    for piece in pieces:
        ids = piece.ids if last is None else np.concatenate([[last], piece.ids])
        backward = np.flatnonzero(ids[1:] <= ids[:-1])
        if len(backward):
            before, after = ids[backward[0]], ids[backward[0] + 1]
            if before == after:
                raise DataError(
                    f"id {after} occurs more than once in {where}; a table has one row an example"
                )
            raise DataError(
                f"{where} is not sorted by id: {after} comes after {before}; its losses may "
                "belong to other examples, so score the data again"
            )
        for name, loss in piece.losses.items():
            bad = ~np.isfinite(loss)
            if bad.any():
                example = piece.ids[int(bad.argmax())]
                raise DataError(
                    f"the loss of id {example} in column '{name}' of {where} is "
                    f"{loss[int(bad.argmax())]}, and so are {int(bad.sum()) - 1} more near it; "
                    "a table holds finite losses only, so leave those rows out"
                )
        if len(piece):
            last = int(piece.ids[-1])
        yield piece


def place_of(path: str | Path) -> tuple[Path, str | None]:
    """File and column of ``TABLE::COLUMN``; the column is None where only a file is named."""
    file, _, column = str(path).partition("::")
    return Path(file), column or None


def is_table(path: str | Path) -> bool:
    """Whether ``path`` is meant as a table: a file that is parquet, or is named like one.

    ``TABLE::COLUMN`` is one as well.
    """
    file, _ = place_of(path)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1" or file.suffix == ".parquet"


def read(path: Path, call: Callable[[], T]) -> T:
    """What ``call`` reads from ``path``. What arrow says of a broken file is a ``DataError``."""
    try:
        return call()
    except (pa.ArrowException, OSError) as error:
        refused, reason = refusal(error), " ".join(str(error).split())
    # Raised here, without a context: while a file is written, an OSError behind another error
    # means that the disk refused.
    if refused:
        raise DataError(f"cannot read {path}: {refused}")
    raise DataError(
        f"{path} cannot be read as a table; it is truncated, damaged or no parquet file "
        f"({reason}); copy or score it again"
    )


@final
class TableFile:
    """A table on disk. Opening reads its footer and refuses what is no table of ours."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no table at {self.path}; superbatch score makes one")
        self._file = read(
            self.path, lambda: pq.ParquetFile(self.path, page_checksum_verification=True)
        )
        schema = self._file.schema_arrow
        if KEY not in (schema.metadata or {}):
            raise DataError(
                f"{self.path} is a parquet file and no table of losses: it has no provenance under "
                f"the key '{KEY.decode()}', so nothing says of which data its columns are "
                f"({', '.join(schema.names)}); superbatch score makes a table"
            )
        self.provenance: Provenance = parsed(str(self.path), schema.metadata[KEY])
        self._check_schema(schema)

    def _check_schema(self, schema: pa.Schema) -> None:
        wanted = {"id": pa.int64()} | dict.fromkeys(self.columns, pa.float32())
        for name, kind in wanted.items():
            if name not in schema.names:
                raise DataError(
                    f"{self.path} has no column '{name}'; its columns are {', '.join(schema.names)}"
                )
            found = schema.field(name).type
            if found != kind:
                raise DataError(f"column '{name}' of {self.path} is {found} and must be {kind}")
        if len(self) == 0:
            raise DataError(f"{self.path} has not one row")

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of losses."""
        return tuple(self.provenance.columns)

    def column(self, name: str | None) -> str:
        """``name`` if there is such a column; the only one where none is named."""
        if name in self.columns:
            return name
        there = ", ".join(self.columns)
        if name is not None:
            near = get_close_matches(name, self.columns, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise DataError(f"{self.path} has no column '{name}'; {hint}it has {there}")
        if len(self.columns) > 1:
            raise DataError(
                f"{self.path} has several columns of losses, {there}; name one, such as "
                f"{self.path}::{self.columns[0]}"
            )
        return self.columns[0]

    def span(self) -> tuple[int, int]:
        """The lowest and the highest id, by the statistics in the footer."""
        groups = [
            self._file.metadata.row_group(group) for group in range(self._file.num_row_groups)
        ]
        place = self._file.schema_arrow.names.index("id")
        statistics = [group.column(place).statistics for group in groups if group.num_rows]
        if any(one is None or not one.has_min_max for one in statistics):
            ids = [piece.ids for piece in self.pieces(())]
            return min(int(one.min()) for one in ids), max(int(one.max()) for one in ids)
        return min(one.min for one in statistics), max(one.max for one in statistics)

    def pieces(self, columns: Sequence[str] | None = None) -> Iterator[Piece]:
        """The rows, a row group at a time, with ``columns`` or all. Raises as `checked` does."""
        return checked(str(self.path), self._pieces(self.columns if columns is None else columns))

    def _pieces(self, columns: Sequence[str]) -> Iterator[Piece]:
        for group in range(self._file.num_row_groups):
            table = read(self.path, partial(self._file.read_row_group, group, ["id", *columns]))
            empty = [name for name in table.column_names if table[name].null_count]
            if empty:
                raise DataError(f"column '{empty[0]}' of {self.path} has rows without a value")
            arrays = {name: table[name].to_numpy() for name in table.column_names}
            yield Piece(arrays.pop("id"), arrays)

    def stamp(self) -> str:
        """32 hexadecimal digits that change with the file: of its footer, size and time."""
        about = self.path.stat()
        digest = hashlib.blake2b(f"{about.st_size} {about.st_mtime_ns}".encode(), digest_size=16)
        with self.path.open("rb") as file:
            file.seek(-8, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, 2)
            digest.update(file.read(length))
        return digest.hexdigest()
