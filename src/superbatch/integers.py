"""Columns of integers in parquet, in few bytes, with what they are and come from in the schema.

Ascending and near values take a few bits each: what changed since the value before is packed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64

from superbatch.errors import DataError
from superbatch.files import refusal, write_atomically


Integers = Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
"""A column."""

KEY = b"superbatch"
"""The key of the schema's metadata under which a file says, as JSON, what it is."""

FORMAT = 1
"""Of these files; grows when older readers would misread newer ones."""


def write_integers(
    path: Path, columns: Mapping[str, Integers], *, kind: str, about: Mapping[str, Any]
) -> None:
    """``columns`` as parquet, atomically; the metadata: ``about``, ``"file"`` and ``"format"``."""
    said = json.dumps({"file": kind, "format": FORMAT, **about}, allow_nan=False)
    table = pa.table(dict(columns)).replace_schema_metadata({KEY: said})

    def write(beside: Path) -> None:
        pq.write_table(
            table,
            beside,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(columns, "DELTA_BINARY_PACKED"),
            write_statistics=False,
        )

    write_atomically(path, write)


def read_about(path: Path, *, kind: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    """What the file of that ``kind`` says of itself, ``fields`` among it.

    Raises ``DataError`` if it is no such file, or does not say one of them.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; it should be a superbatch {kind}")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise DataError(broken(path, kind, error)) from error
    try:
        about = json.loads(metadata.get(KEY, b"{}"))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise DataError(broken(path, kind, "its metadata is no JSON object"))
    if about.get("file") != kind:
        found = about.get("file", "table of losses" if "columns" in about else "other parquet file")
        raise DataError(f"{path} is no superbatch {kind} but some {found}; give another file")
    if not isinstance(about.get("format"), int):
        raise DataError(unsaid(path, "format"))
    if about["format"] > FORMAT:
        raise DataError(
            f"{path} is a {kind} of format {about['format']} and this version of superbatch reads "
            f"up to format {FORMAT}; update superbatch"
        )
    for field in fields:
        if field not in about:
            raise DataError(unsaid(path, field))
    return about


def read_integers(path: Path, names: Sequence[str], *, kind: str) -> dict[str, Integers]:
    """The columns ``names`` of a file of that ``kind``.

    Raises ``DataError`` if it is no such file, is cut short, or lacks one of them.
    """
    read_about(path, kind=kind)
    there = pq.read_schema(path).names
    for name in names:
        if name not in there:
            raise DataError(
                f"{path} has no column '{name}'; its columns are {', '.join(there)}: "
                "it was changed since superbatch wrote it, make it again"
            )
    try:
        table = pq.read_table(path, columns=list(names), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(broken(path, kind, error)) from error
    columns = {}
    for name in names:
        column = table[name]
        if column.null_count or not pa.types.is_signed_integer(column.type):
            raise DataError(
                f"column '{name}' of {path} holds {column.type} with {column.null_count} nulls "
                "and integers are needed; make the file again"
            )
        columns[name] = column.to_numpy()
    return columns


def unsaid(path: Path, field: str) -> str:
    """The message for a file whose metadata lacks ``field``, or has something else in it."""
    return (
        f"the metadata of {path} does not say its {field}; it was changed since superbatch wrote "
        "it, make it again"
    )


def broken(path: Path, kind: str, error: Exception | str) -> str:
    """The message for a file that cannot be read."""
    if isinstance(error, Exception) and (refused := refusal(error)):
        return f"cannot read {path}: {refused}"
    reason = " ".join(str(error).split())
    return (
        f"{path} cannot be read as a superbatch {kind}: it is cut short, broken or no parquet "
        f"file ({reason}); copy or make it again"
    )
