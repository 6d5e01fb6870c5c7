"""Tables in the Hugging Face layout: parquet files, and data sets from the hub."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from superbatch.errors import DataError
from superbatch.sources.catalogue import (
    Catalogue,
    catalogue_of,
    refuse_too_large,
    require_columns,
)
from superbatch.sources.examples import Encoded


Require = Callable[[str, list[str]], None]
"""Told where and which columns are there, raises ``DataError`` unless they suffice."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are meant."""

    label: str = "label"
    image: str = "image"
    truth: str | None = None

    def require(self, where: str, there: Iterable[str]) -> None:
        """Raise ``DataError`` if one of them is not among those that are ``there``."""
        require_columns(where, there, image=self.image, label=self.label, truth=self.truth)


@dataclass(frozen=True)
class ColumnOfBytes:
    """One encoded image a row, from a column of an Arrow table."""

    column: pa.ChunkedArray

    def __call__(self, row: int) -> bytes:
        """The image of ``row``; empty where it is null."""
        image: bytes | None = self.column[row].as_py()
        return image or b""


def read_parquet(path: Path, columns: Columns) -> tuple[Encoded, Catalogue]:
    """Images and catalogue of a parquet file, of which only the columns needed are read."""
    wanted = [columns.image, columns.label, *([columns.truth] if columns.truth else [])]
    return read_table(str(path), parquet_table(path, columns.require, wanted), columns)


def parquet_table(path: Path, require: Require, wanted: Iterable[str]) -> pa.Table:
    """The columns ``wanted`` of a parquet file, and its ``id`` where it has one."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error
    names = file.schema_arrow.names
    require(str(path), names)
    try:
        return file.read(columns=[name for name in names if name in {*wanted, "id"}])
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {said}; write or fetch it again") from error


def read_hub(name: str, columns: Columns) -> tuple[Encoded, Catalogue]:
    """The same of a data set of the Hugging Face hub, as `hub_table` loads it."""
    return read_table(name, hub_table(name, columns.require, encoded=columns.image), columns)


def hub_table(name: str, require: Require, *, encoded: str | None = None) -> pa.Table:
    """A data set of the Hugging Face hub: ``owner/name`` or ``owner/name:split``.

    The split is ``train`` where none is named; the images of a column ``encoded`` are left so.
    Raises ``DataError`` if the package ``datasets`` is absent or cannot load it.
    """
    neither = f"there is no file or folder '{name}', and as the name of a Hugging Face data set it"
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{neither} needs the package datasets: pip install 'superbatch[data]'"
        ) from error
    repository, _, split = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # whatever the network, the hub or the data set's files raise
        reason = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{neither} cannot be loaded ({type(error).__name__}: {reason}); "
            "check the name and the network"
        ) from error
    require(name, loaded.column_names)
    if encoded is not None:
        loaded = loaded.cast_column(encoded, datasets.Image(decode=False))
    table = loaded.with_format("arrow")[:]
    return table.replace_schema_metadata(loaded.features.arrow_schema.metadata)


def read_table(where: str, table: pa.Table, columns: Columns) -> tuple[Encoded, Catalogue]:
    """Images and catalogue of ``table``; ids are its integer column ``id``, or row numbers."""
    if "id" in table.column_names and pa.types.is_integer(table.schema.field("id").type):
        ids = _integers(where, table, "id", None)
    else:
        ids = np.arange(len(table), dtype=np.int64)
    truth = columns.truth
    entries = catalogue_of(
        where,
        ids,
        (columns.label, _integers(where, table, columns.label, ids)),
        truth=None if truth is None else (truth, _integers(where, table, truth, ids)),
        class_names=names_in(table.schema.metadata or {}, columns.label),
    )
    return ColumnOfBytes(_images(where, table[columns.image], columns.image)), entries


def _images(where: str, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            f"column '{name}' of {where} holds {kind} and not encoded images (binary, or a struct "
            "with the field bytes); choose another with --data.image"
        )
    return column


def _integers(
    where: str, table: pa.Table, name: str, ids: Int64[np.ndarray, " n"] | None
) -> Int64[np.ndarray, " n"]:
    column = table[name]
    if not pa.types.is_integer(column.type):
        raise DataError(
            f"column '{name}' of {where} holds {column.type} and labels are integers; "
            "choose another column with --data.label, or write class numbers"
        )
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        which = f"row {row}" if ids is None else f"id {ids[row]}"
        raise DataError(
            f"column '{name}' of {where} has no value for {which} ({column.null_count} nulls); "
            "remove those rows, or choose another column"
        )
    refuse_too_large(where, name, pc.max(column).as_py() or 0)
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)


def names_in(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face's metadata gives the classes of ``label``, or else of "label"."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return None
    for column in (label, "label"):
        names = features.get(column, {}).get("names")
        if names:
            return tuple(str(name) for name in names)
    return None
