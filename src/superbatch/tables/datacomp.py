"""DataComp's names for examples: 128-bit uids, their metadata files and their subset files.

A subset file is what DataComp's resharder takes: an array of pairs of 64-bit numbers, the high
half of each uid first, sorted, as ``.npy``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from superbatch.errors import DataError
from superbatch.files import write_atomically
from superbatch.tables.file import read


UID = np.dtype("u8,u8")
"""One uid: its high and its low 64 bits."""


def uids_of(where: str, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Uids, an array of `UID`, from up to 32 hexadecimal digits each; shorter ones begin with 0.

    Raises ``DataError`` for the first that is anything else.
    """
    column = (
        texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())
    )
    if len(column) == 0:
        return np.zeros(0, dtype=UID)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"the uids of {where} are {column.type} and must be text")
    good = pc.fill_null(pc.match_substring_regex(column, "^[0-9a-fA-F]{1,32}$"), False)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        raise DataError(
            f"uid {column[row].as_py()!r} in row {row} of {where} is not a 128-bit number in "
            "hexadecimal digits, as DataComp's are; check the column 'uid'"
        )
    padded = pc.ascii_lpad(column, 32, "0")
    digits = "".join(padded.to_pylist())
    halves = np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)
    return halves.view(UID)


def texts_of(uids: np.ndarray) -> list[str]:
    """Each uid as 32 hexadecimal digits."""
    digits = uids.view(np.uint64).astype(">u8").tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def write_subset(path: Path, uids: np.ndarray) -> None:
    """Write ``uids``, sorted, as DataComp's subset file. Raises ``RunError`` as files do."""
    ordered = in_order(uids)

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.save(file, ordered)

    write_atomically(path, write)


def in_order(uids: np.ndarray) -> np.ndarray:
    """``uids`` ascending."""
    # Column by column: numpy compares structures one after the other, a hundred times slower.
    ordered: np.ndarray = uids[np.lexsort((uids["f1"], uids["f0"]))]
    return ordered


def read_subset(path: Path) -> np.ndarray:
    """The uids of a subset file, sorted: ``.npy``, or the bare numbers. Repeats are kept.

    Raises ``DataError`` for any other array.
    """
    try:
        with path.open("rb") as file:
            has_header = file.read(6) == b"\x93NUMPY"
        uids = np.load(path) if has_header else np.fromfile(path, dtype=UID)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a subset file ({error})") from error
    if uids.dtype != UID or uids.ndim != 1:
        raise DataError(
            f"{path} is an array of {uids.dtype} {uids.shape}; DataComp's subset files are of "
            f"{UID} in one dimension: the high and the low 64 bits of each uid"
        )
    if has_header or path.stat().st_size % UID.itemsize == 0:
        return in_order(uids)
    raise DataError(f"{path} is no whole number of uids of {UID.itemsize} bytes; copy it again")


def read_metadata(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Uids and float ``columns`` of DataComp's metadata: a parquet file, or a folder of them.

    Raises ``DataError`` for a column that is missing or holds no numbers, and for a uid that is
    not hexadecimal.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise DataError(f"there is no parquet file at {path}")
    uids, values = [], {name: [] for name in columns}  # type: ignore[var-annotated]
    for file in files:
        opened = read(file, lambda file=file: pq.ParquetFile(file))  # type: ignore[misc]
        there = opened.schema_arrow.names
        for name in ("uid", *columns):
            if name not in there:
                raise DataError(
                    f"{file} has no column '{name}'; its columns are {', '.join(there)}"
                )
        refuse_words(file, opened.schema_arrow, columns)
        table = read(file, lambda opened=opened: opened.read(["uid", *columns]))  # type: ignore[misc]
        uids.append(uids_of(str(file), table["uid"]))
        for name in columns:
            values[name].append(table[name].to_numpy().astype(np.float32))
    return np.concatenate(uids), {name: np.concatenate(parts) for name, parts in values.items()}


def refuse_words(path: Path, schema: pa.Schema, columns: Sequence[str]) -> None:
    """Raise ``DataError`` unless ``columns`` hold numbers."""
    numbers = [
        field.name
        for field in schema
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    for name in columns:
        if name not in numbers:
            raise DataError(
                f"column '{name}' of {path} holds {schema.field(name).type}, by which examples "
                f"cannot be compared; its columns of numbers are {', '.join(numbers) or 'none'}"
            )


def among(uids: np.ndarray, subset: np.ndarray) -> np.ndarray:
    """Whether each of ``uids`` is in ``subset``, which is sorted."""
    if len(subset) == 0:
        return np.zeros(len(uids), dtype=bool)
    places = np.minimum(np.searchsorted(subset, uids), len(subset) - 1)
    found: np.ndarray = subset[places] == uids
    return found
