"""Tables of texts with labels: tab- and comma-separated files, parquet, and the hub's data sets."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from superbatch.errors import DataError
from superbatch.sources.catalogue import require_columns
from superbatch.sources.open import refuse_missing_file
from superbatch.sources.tables import hub_table, names_in, parquet_table


SEPARATORS = {".tsv": "\t", ".csv": ","}
"""What stands between fields, by suffix; ".gz" may follow."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns of a table are meant: by name, or by number from 0 where there is no header."""

    text: str = "text"
    label: str = "label"
    truth: str | None = None

    @property
    def wanted(self) -> list[str]:
        """All that are named."""
        return [name for name in (self.text, self.label, self.truth) if name is not None]

    def require(self, where: str, there: Sequence[str]) -> None:
        """Raise ``DataError`` if one of them is not among those that are ``there``."""
        require_columns(where, there, text=self.text, label=self.label, truth=self.truth)


@dataclass(frozen=True)
class TextRows:
    """A table as it was read, nothing checked: values are strings, numbers or nothing."""

    where: str
    ids: list[Any] | None
    """The column "id" where there is one."""
    texts: list[Any]
    labels: list[Any]
    truths: list[Any] | None = None
    class_names: tuple[str, ...] | None = None
    broken: frozenset[int] = frozenset()
    """Rows, counted from 0, with more or fewer fields than there are columns: all are None."""

    def __len__(self) -> int:
        return len(self.texts)


def read_text_rows(path: str, columns: TextColumns) -> TextRows:
    """The rows of ``path``: a .tsv or .csv file, both also gzipped, a .parquet file, or the name of
    a Hugging Face data set (``owner/name:split``).

    Fields of .tsv files are taken as they are: a quotation mark is a character. Raises
    ``DataError`` for whatever is missing, broken as a whole, or of no such kind.
    """
    place = Path(path).expanduser()
    if separator_of(place) is not None and place.is_file():
        return _read_separated(place, columns)
    if place.suffix == ".parquet" and place.is_file():
        return _from_arrow(path, parquet_table(place, columns.require, columns.wanted), columns)
    if place.exists():
        raise DataError(
            f"{path} is no table of texts that can be read; .tsv, .csv (both also gzipped) and "
            ".parquet files can"
        )
    refuse_missing_file(path, place)
    return _from_arrow(path, hub_table(path, columns.require), columns)


def separator_of(path: Path) -> str | None:
    """What stands between the fields of ``path``, by its suffix; none of other kinds of file."""
    return SEPARATORS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def _read_separated(path: Path, columns: TextColumns) -> TextRows:
    try:
        with _opened(path) as file:
            rows = list(_fields(file, separator_of(path)))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{path} is empty: there is not one line in it")
    names = rows[0]
    if set(columns.wanted) <= set(names):
        rows = rows[1:]
    elif all(name.isdecimal() for name in columns.wanted):
        names = [str(number) for number in range(len(rows[0]))]
    columns.require(str(path), names)
    whole = [fields if len(fields) == len(names) else None for fields in rows]

    def column(name: str) -> list[Any]:
        place = names.index(name)
        return [None if fields is None else fields[place] for fields in whole]

    return TextRows(
        str(path),
        ids=column("id") if "id" in names else None,
        texts=column(columns.text),
        labels=column(columns.label),
        truths=None if columns.truth is None else column(columns.truth),
        broken=frozenset(row for row, fields in enumerate(whole) if fields is None),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[str]]:
    """The lines of ``path``, gzipped or not whatever its name says; bytes that are not UTF-8 become
    lone surrogates, which no text has.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        # csv finds the ends of lines itself; of other files only "\n" is one.
        newline = "" if separator_of(path) == "," else "\n"
        yield io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline=newline)


def _fields(lines: Iterable[str], separator: str | None) -> Iterator[list[str]]:
    if separator == ",":
        yield from csv.reader(lines)
    else:
        for line in lines:
            yield line.rstrip("\r\n").split("\t")


def _from_arrow(where: str, table: pa.Table, columns: TextColumns) -> TextRows:
    def column(name: str, *kinds: str) -> list[Any]:
        kind = table.schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        known = {
            "texts": pa.types.is_string(kind) or pa.types.is_large_string(kind),
            "numbers": pa.types.is_integer(kind) or pa.types.is_boolean(kind),
        }
        if not any(known[one] for one in kinds):
            raise DataError(
                f"column '{name}' of {where} holds {kind} and not {' or '.join(kinds)}; choose "
                "another with --data.text and --data.label"
            )
        values: list[Any] = table[name].to_pylist()
        return values

    has_ids = "id" in table.column_names and pa.types.is_integer(table.schema.field("id").type)
    return TextRows(
        where,
        ids=column("id", "numbers") if has_ids else None,
        texts=column(columns.text, "texts"),
        labels=column(columns.label, "numbers", "texts"),
        truths=None if columns.truth is None else column(columns.truth, "numbers", "texts"),
        class_names=names_in(table.schema.metadata or {}, columns.label),
    )
