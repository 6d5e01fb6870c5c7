"""Tables together: the rows of several, or the columns of several; a piece of each at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from superbatch.errors import DataError
from superbatch.tables.file import LOSS, Piece, TableFile, joined, write_table
from superbatch.tables.fingerprint import summed
from superbatch.tables.provenance import Provenance, ScoredBy, differences


def merge_tables(paths: Sequence[Path], out: Path, *, command: Sequence[str] = ()) -> Provenance:
    """Write the rows of all tables, which must have been made alike and share no id, to ``out``.

    Raises ``DataError`` naming what differs, or an id that two of them have.
    """
    files = [TableFile(path) for path in paths]
    provenance = merged_provenance(files, command)
    write_table(out, provenance, merged([file.pieces() for file in files]))
    return provenance


def merged_provenance(files: Sequence[TableFile], command: Sequence[str]) -> Provenance:
    """What the rows of all ``files`` are together. Raises ``DataError`` naming what differs."""
    first, *others = files
    for other in others:
        check_alike(str(first.path), first.provenance, str(other.path), other.provenance)
    all_of = [file.provenance for file in files]
    return first.provenance.model_copy(
        update={
            "data": ", ".join(dict.fromkeys(one.data for one in all_of)),
            "fingerprint": summed(*(one.fingerprint for one in all_of)),
            "skipped": sum(one.skipped for one in all_of),
            "not_finite": sum(one.not_finite for one in all_of),
            "command": tuple(command),
        }
    )


def check_alike(where: str, one: Provenance, there: str, other: Provenance) -> None:
    """Raise ``DataError`` unless losses of both mean the same."""
    unlike = differences(one, other)
    if unlike:
        raise DataError(
            f"{where} and {there} differ in {'; '.join(unlike)}, so their losses cannot stand in "
            "one column; score the data of one of them again"
        )


def merged(tables: Sequence[Iterable[Piece]]) -> Iterator[Piece]:
    """The rows of all ``tables``, each ascending, in one ascending order.

    No more than a piece of each is held. Raises ``DataError`` for an id that two of them have.
    """
    sources = [iter(table) for table in tables]
    ahead = [next(source, None) for source in sources]
    while waiting := [piece for piece in ahead if piece is not None]:
        # Up to the first end of a piece, nothing smaller can still come from any of them.
        end = min(int(piece.ids[-1]) for piece in waiting)
        parts: list[Piece] = []
        for place, piece in enumerate(ahead):
            if piece is None:
                continue
            cut = int(np.searchsorted(piece.ids, end, side="right"))
            parts.append(piece.take(slice(0, cut)))
            rest = piece.take(slice(cut, None))
            ahead[place] = rest if len(rest) else next(sources[place], None)
        together = joined(parts)
        ordered = together.take(np.argsort(together.ids, kind="stable"))
        twice = ordered.ids[1:][ordered.ids[1:] == ordered.ids[:-1]]
        if len(twice):
            raise DataError(
                f"id {twice[0]} is in two of the tables ({len(twice)} such ids near it); tables "
                "that are merged must be of different examples"
            )
        yield ordered


def join_tables(
    tables: Mapping[str, Path], out: Path, *, command: Sequence[str] = ()
) -> Provenance:
    """Write one table with a column ``loss/NAME`` of each of ``tables``, given by name, to ``out``.

    Columns of a table with several become ``loss/NAME/...``. All must be of the same examples.
    Raises ``DataError`` naming what differs.
    """
    files = {name: TableFile(path) for name, path in tables.items()}
    first, *others = files.values()
    columns: dict[str, ScoredBy] = {}
    for name, file in files.items():
        for column, scorer in file.provenance.columns.items():
            columns[joined_name(name, column)] = scorer
    for other in others:
        plain = {"columns": first.provenance.columns}
        check_alike(
            str(first.path),
            first.provenance,
            str(other.path),
            other.provenance.model_copy(update=plain),
        )
        if first.provenance.fingerprint != other.provenance.fingerprint or len(first) != len(other):
            raise DataError(
                f"{first.path} and {other.path} are not of the same examples: {len(first)} rows "
                f"with fingerprint {first.provenance.fingerprint} and {len(other)} with "
                f"{other.provenance.fingerprint}; score the missing ones with --append first"
            )
    provenance = first.provenance.model_copy(update={"columns": columns, "command": tuple(command)})
    write_table(out, provenance, _side_by_side(files))
    return provenance


def joined_name(name: str, column: str) -> str:
    """What ``column`` of the table called ``name`` is called among others."""
    inner = column.removeprefix(LOSS).removeprefix("/")
    return f"{LOSS}/{name}/{inner}" if inner else f"{LOSS}/{name}"


def _side_by_side(files: Mapping[str, TableFile]) -> Iterator[Piece]:
    for pieces in zip(*(file.pieces() for file in files.values()), strict=True):
        ids = pieces[0].ids
        losses: dict[str, np.ndarray] = {}
        for (name, file), piece in zip(files.items(), pieces, strict=True):
            if not np.array_equal(piece.ids, ids):
                raise DataError(f"{file.path} has other ids than {next(iter(files.values())).path}")
            losses |= {joined_name(name, column): loss for column, loss in piece.losses.items()}
        yield Piece(ids, losses)
