"""Examples by name: lists of ids or of DataComp's uids, from files and to files."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.errors import ConfigError, DataError
from superbatch.files import write_atomically, write_text
from superbatch.tables.datacomp import (
    UID,
    in_order,
    read_metadata,
    read_subset,
    texts_of,
    uids_of,
    write_subset,
)
from superbatch.tables.file import KEY, TableFile, joined, read
from superbatch.tables.provenance import FORMAT, kind_of


LIST = "list"
"""What a list of ours says that it is."""


@dataclass(frozen=True)
class Origin:
    """The examples that have a row in the table of ours that names were taken from."""

    fingerprint: str
    examples: int


@dataclass(frozen=True)
class Named:
    """Examples by name, and what is known of each."""

    names: np.ndarray
    """Int64 ids, or uids of the type `UID`."""
    values: dict[str, np.ndarray]
    """Columns of float32."""
    origin: Origin | None = None
    """None: not from a table of ours."""

    @property
    def by_uid(self) -> bool:
        """Whether names are uids, not ids."""
        return bool(self.names.dtype == UID)

    def take(self, rows: np.ndarray) -> "Named":
        """The examples ``rows`` only."""
        values = {name: values[rows] for name, values in self.values.items()}
        return replace(self, names=self.names[rows], values=values)


def read_named(path: Path, columns: list[str | None]) -> Named:
    """``columns`` of a table of ours, or of DataComp's metadata (a parquet file or a folder).

    A column None is the only one of a table of ours. Raises ``DataError`` for what is missing or
    damaged, ``ConfigError`` for a column that is named twice.
    """
    if not path.is_dir() and is_ours(path):
        file = TableFile(path)
        names = [file.column(name) for name in columns]
        if len(set(names)) < len(names):
            raise ConfigError(f"--column and --minus are both {names[0]}; name two columns")
        whole = joined(list(file.pieces(names)))
        origin = Origin(file.provenance.fingerprint, len(file))
        return Named(whole.ids, dict(whole.losses), origin)
    wanted = [name for name in columns if name is not None]
    if len(wanted) < len(columns):
        raise ConfigError(f"{path} is no table of ours; say which column of it, with --column")
    uids, values = read_metadata(path, wanted)
    return Named(uids, values)


def is_ours(path: Path) -> bool:
    """Whether ``path`` is a table with provenance. Raises ``DataError`` for a damaged file."""
    if not path.is_file():
        raise DataError(f"there is no table at {path}; superbatch score makes one")
    schema = read(path, lambda: pq.read_schema(path))
    said = (schema.metadata or {}).get(KEY)
    return said is not None and kind_of(said) != LIST


def list_origin(path: Path) -> Origin | None:
    """What the list at ``path`` was taken from; None where it does not say, as texts do not.

    Raises ``DataError`` for a damaged parquet file.
    """
    if path.suffix != ".parquet":
        return None
    said = (read(path, lambda: pq.read_schema(path)).metadata or {}).get(KEY, b"")
    if kind_of(said) != LIST:
        return None
    about = json.loads(said)
    if not isinstance(about.get("fingerprint"), str) or not isinstance(about.get("examples"), int):
        raise DataError(f"{path} does not say of which data it is a list; make it again")
    return Origin(about["fingerprint"], about["examples"])


def read_names(path: Path) -> np.ndarray:
    """Ids or uids, ascending: a text with one a line, a parquet file with a column ``id`` or
    ``uid``, or a subset file of DataComp's (``.npy``).

    A line of 32 digits is a uid. Raises ``DataError`` for what is neither.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".npy":
        return read_subset(path)
    if path.suffix == ".parquet":
        schema = read(path, lambda: pq.read_schema(path))
        for name in ("id", "uid"):
            if name in schema.names:
                column = read(path, lambda name=name: pq.read_table(path, columns=[name]))[name]  # type: ignore[misc]
                if name == "uid":
                    return in_order(uids_of(str(path), column))
                return np.sort(_ids(path, column))
        raise DataError(f"{path} has no column 'id' or 'uid'; it has {', '.join(schema.names)}")
    try:
        lines = path.read_text(encoding="utf-8").split()
        if lines and len(lines[0]) == 32:
            return in_order(uids_of(str(path), lines))
        return np.sort(np.array([int(line) for line in lines], dtype=np.int64))
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no list of ids, one a line: it is no text; a list in another form is named "
            ".parquet or .npy"
        ) from error
    except OverflowError as error:
        raise DataError(f"{path} is no list of ids: one is beyond 64 bits") from error
    except ValueError as error:
        raise DataError(f"{path} is no list of ids, one a line: {error}") from error


def write_names(path: Path, found: Named) -> None:
    """Write names, ascending: ``.txt``, one a line; ``.parquet``, with their values and origin;
    ``.npy``, DataComp's subset file, which holds uids.

    Raises ``ConfigError`` for another suffix, and for ids where uids are needed.
    """
    if path.suffix == ".npy":
        if not found.by_uid:
            raise ConfigError(
                f"{path} would be a subset file of DataComp's, which holds uids, and the table has "
                "ids; say which uid each id has (--uids, a parquet file with columns id and uid), "
                "or take --out ids.txt or ids.parquet"
            )
        write_subset(path, found.names)
    elif path.suffix == ".parquet":
        order = _order(found.names)
        named = (
            {"uid": texts_of(found.names[order])} if found.by_uid else {"id": found.names[order]}
        )
        table = pa.table(named | {name: values[order] for name, values in found.values.items()})
        if found.origin is not None:
            said = {"file": LIST, "format": FORMAT, **asdict(found.origin)}
            table = table.replace_schema_metadata({KEY: json.dumps(said)})
        write_atomically(path, lambda beside: pq.write_table(table, beside, compression="zstd"))
    elif path.suffix in (".txt", ""):
        names = found.names[_order(found.names)]
        lines = texts_of(names) if found.by_uid else map(str, names.tolist())
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        raise ConfigError(f"--out {path} is of no kind that can be written: .txt, .parquet or .npy")


def _order(names: np.ndarray) -> np.ndarray:
    if names.dtype == UID:
        return np.lexsort((names["f1"], names["f0"]))
    return np.argsort(names, kind="stable")


def with_uids(found: Named, path: Path) -> Named:
    """The same examples by uid, which the columns ``id`` and ``uid`` of a parquet file say.

    Raises ``DataError`` with the count of ids that it lacks, ``ConfigError`` for uids.
    """
    if found.by_uid:
        raise ConfigError(
            f"--uids {path} says which uid an id has, and the table has uids "
            "already; leave --uids out"
        )
    schema = read(path, lambda: pq.read_schema(path))
    if not {"id", "uid"} <= set(schema.names):
        raise DataError(f"{path} needs the columns id and uid; it has {', '.join(schema.names)}")
    table = read(path, lambda: pq.read_table(path, columns=["id", "uid"]))
    ids = _ids(path, table["id"])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    places = np.minimum(np.searchsorted(ids, found.names), len(ids) - 1)
    lacking = int((ids[places] != found.names).sum()) if len(ids) else len(found.names)
    if lacking:
        raise DataError(f"{path} has no uid of {lacking} of {len(found.names)} ids")
    return replace(found, names=uids_of(str(path), table["uid"])[order][places])


def _ids(path: Path, column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(
            f"column 'id' of {path} holds {column.type} with {column.null_count} nulls, and ids "
            "are integers"
        )
    ids: np.ndarray = column.to_numpy().astype(np.int64)
    return ids
