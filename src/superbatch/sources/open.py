"""One door to every kind of data."""

import difflib
import math
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from superbatch.errors import DataError
from superbatch.sources.arrays import digits, read_arrays
from superbatch.sources.examples import (
    ArrayExamples,
    EncodedExamples,
    Examples,
    Progress,
    in_memory,
)
from superbatch.sources.folder import read_folder
from superbatch.sources.tables import Columns, read_hub, read_parquet


_OPENED: ContextVar[dict[Hashable, ArrayExamples] | None] = ContextVar("_OPENED", default=None)


@contextmanager
def opened_once() -> Iterator[None]:
    """Within: a file that was decoded into memory is not decoded again for whoever opens it in the
    same way, such as the next run or a reference, unless it has changed. After: it is let go.
    """
    outer = _OPENED.get()
    token = _OPENED.set({} if outer is None else outer)
    try:
        yield
    finally:
        _OPENED.reset(token)


def open_examples(
    path: str,
    *,
    label: str = "label",
    image: str = "image",
    truth: str | None = None,
    image_size: int | None = None,
    memory_gb: float = 2.0,
    progress: Progress | None = None,
) -> Examples:
    """The examples of ``path``: "digits", a .parquet file, a folder of images by class, an .npz
    file, or the name of a Hugging Face data set (``owner/name:split``).

    ``label``, ``image`` and ``truth`` name columns; with ``truth`` every batch has the field too.
    Images are resized to ``image_size`` pixels a side. A set of at most ``memory_gb`` (1e9 bytes
    of pixels) is decoded once, now, and ``progress`` is told how many of how many images are done.
    Raises ``DataError`` for whatever is missing, broken or not what it is said to be.
    """
    columns = Columns(label, image, truth)
    place = Path(path).expanduser()
    opened = _OPENED.get()
    if opened is None or not place.is_file():
        return _read(path, place, columns, image_size, memory_gb, progress)
    file = place.stat()
    key = (place.resolve(), file.st_size, file.st_mtime_ns, columns, image_size, memory_gb)
    if key in opened:
        return opened[key]
    examples = _read(path, place, columns, image_size, memory_gb, progress)
    if isinstance(examples, ArrayExamples):
        opened[key] = examples
    return examples


def _read(
    path: str,
    place: Path,
    columns: Columns,
    image_size: int | None,
    memory_gb: float,
    progress: Progress | None,
) -> Examples:
    if path == "digits" and not place.exists():
        columns.require(path, ["image", "label"])
        return digits(image_size)
    if place.is_dir():
        columns.require(path, ["image", "label"])
        encoded, entries = read_folder(place)
    elif place.suffix == ".npz" and place.exists():
        return read_arrays(place, columns, image_size)
    elif place.suffix == ".parquet" and place.exists():
        encoded, entries = read_parquet(place, columns)
    elif place.exists():
        raise DataError(
            f"{path} is of no kind that can be read; a .parquet file, an .npz file or a folder "
            "of images by class can"
        )
    else:
        refuse_missing_file(path, place)
        encoded, entries = read_hub(path, columns)
    examples = EncodedExamples(encoded, entries, image_size=image_size)
    if len(examples) * math.prod(examples.image_shape) <= memory_gb * 1e9:
        return in_memory(examples, progress)
    return examples


def holds_labels(path: str) -> bool:
    """Whether what is at ``path`` is of a kind that has images with labels, unlike tar shards."""
    place = Path(path).expanduser()
    if place.is_dir():
        return not any(place.glob("*.tar")) and any(entry.is_dir() for entry in place.iterdir())
    return path == "digits" or place.suffix in (".npz", ".parquet")


def refuse_missing_file(path: str, place: Path) -> None:
    """Raise ``DataError`` unless ``path``, where nothing is, may name a data set of the hub.

    A hub's name is ``name`` or ``owner/name``, with no suffix such as .parquet; and where there is
    a folder ``owner``, a file in it is meant.
    """
    hub_name = re.fullmatch(r"[\w-]+(/[\w.-]+)?(:[\w.-]+)?", path)
    suffix = re.fullmatch(r"\.[A-Za-z]\w*", place.suffix)
    in_folder = "/" in path and place.parent.is_dir()
    near = _nearest(place)
    if hub_name and not suffix and not in_folder and near is None:
        return
    hint = f"did you mean {near}?" if near else "check the path"
    raise DataError(f"there is no such file or folder: {path}; {hint}")


def _nearest(place: Path) -> str | None:
    """The name beside ``place`` that is most like it."""
    beside = {"digits": "digits"} if place.parent == Path() else {}
    if place.parent.is_dir():
        beside |= {entry.name: str(entry) for entry in place.parent.iterdir()}
    close = difflib.get_close_matches(place.name, beside, n=1, cutoff=0.75)
    return beside[close[0]] if close else None
