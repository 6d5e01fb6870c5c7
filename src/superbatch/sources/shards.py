"""Shards: files that many examples lie in one after the other, here or anywhere fsspec reaches.

Nothing is held open. A read opens what it needs and closes it again, so that a source can be
forked, pickled and shared by any number of workers.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from fsspec.core import url_to_fs
from jaxtyping import Int64

from superbatch.errors import DataError


_TIMES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created", "md5Hash")
"""What file systems call what changes with a file."""


@runtime_checkable
class ByteFile(Protocol):
    """An open file, here or far away."""

    def read(self, size: int = -1, /) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go on at ``offset``."""
        ...

    def tell(self) -> int:
        """Where it goes on."""
        ...


@dataclass(frozen=True)
class Shard:
    """One file: an absolute path, or a URL."""

    place: str

    @property
    def is_local(self) -> bool:
        """Whether the operating system can read it."""
        return "://" not in self.place

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rpartition("/")[2]

    def size_and_stamp(self) -> tuple[int, str]:
        """How many bytes it has, and a text that changes when it is written again."""
        with _reading(self.place):
            if self.is_local:
                facts = Path(self.place).stat()
                return facts.st_size, str(facts.st_mtime_ns)
            system, path = url_to_fs(self.place)
            info = system.info(path)
            stamp = [f"{key} {info[key]}" for key in _TIMES if info.get(key) is not None]
            if info["size"] is None:
                raise OSError("its server does not say how long it is")
            return int(info["size"]), ", ".join(stamp)

    @contextmanager
    def open(self) -> Iterator[ByteFile]:
        """The whole of it, to be read from the start on."""
        with _reading(self.place):
            system, path = url_to_fs(self.place)
            with system.open(path, "rb") as file:
                yield file


@dataclass(frozen=True)
class Members:
    """Encoded images by row, each a part of one of ``shards``: all are here, or all far away."""

    shards: tuple[Shard, ...]
    shard: Int64[np.ndarray, " rows"]
    offset: Int64[np.ndarray, " rows"]
    size: Int64[np.ndarray, " rows"]
    name: Sequence[str]

    def __call__(self, rows: Int64[np.ndarray, " n"]) -> list[bytes]:
        """The bytes of ``rows``, in that order. What is far is asked for all at once."""
        shards = [self.shards[number] for number in self.shard[rows].tolist()]
        places = [shard.place for shard in shards]
        offsets, sizes = self.offset[rows].tolist(), self.size[rows].tolist()
        read = _read_here if all(shard.is_local for shard in shards) else _read_far
        found = read(places, offsets, sizes)
        for place, part, size in zip(places, found, sizes, strict=True):
            if len(part) != size:
                raise DataError(f"{place} has become shorter since it was indexed; start again")
        return found

    def named(self, rows: Sequence[int]) -> str:
        """Which members ``rows`` are, to be said in messages."""
        return ", ".join(f"{self.shards[self.shard[row]].name}/{self.name[row]}" for row in rows)


def _read_here(places: Sequence[str], offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """So many bytes from each place; each file is opened once."""
    files: dict[str, int] = {}
    found = []
    try:
        for place, offset, size in zip(places, offsets, sizes, strict=True):
            with _reading(place):
                if place not in files:
                    files[place] = os.open(place, os.O_RDONLY)
                found.append(os.pread(files[place], size, offset))
    finally:
        for file in files.values():
            os.close(file)
    return found


def _read_far(places: Sequence[str], offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """The same over a network, many requests at a time where its file system can."""
    system, _ = url_to_fs(places[0])
    paths = [url_to_fs(place)[1] for place in places]
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    found = system.cat_ranges(paths, list(offsets), ends, on_error="return")
    for place, part in zip(places, found, strict=True):
        if isinstance(part, Exception):
            with _reading(place):
                raise part
    return list(found)


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """Turn what the file system refuses of ``place`` into a ``DataError``."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no such file or folder: {place}; check the path") from error
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error}; check the path") from error


def shards_of(path: str) -> tuple[Shard, ...]:
    """The shards that ``path`` means, sorted by their places.

    A file, a folder with .tar files, a pattern with ``*``, ``?`` or ``[...]``, numbers or words in
    braces (``{00000..00099}``, ``{train,val}``), or a URL of any of these. Raises ``DataError``
    where there are none; whether files that are named exist is seen when they are read.
    """
    far = "://" in path
    names = [path] if not far and Path(path).expanduser().exists() else list(expanded_braces(path))
    found: set[str] = set()
    for name in names:
        try:
            system, inner = url_to_fs(name)
            places = _tars(system, inner)
        except (ImportError, ValueError, OSError) as error:
            raise DataError(f"{name} cannot be opened: {error}") from error
        found.update(system.unstrip_protocol(place) if far else place for place in places)
    if not found:
        raise DataError(f"there is no file that {path} matches; check the pattern")
    return tuple(map(Shard, sorted(found)))


def _tars(system: Any, path: str) -> list[str]:
    """The shards that ``path`` of a file system means: itself, those in it, or those it matches.

    A name that ends in .tar is not looked at, as some systems would read the file to answer.
    """
    has_magic = re.search(r"[*?[]", path) is not None
    if has_magic and not (system.protocol[0] == "file" and Path(path).exists()):
        return [place for place in system.glob(path) if not system.isdir(place)]
    if path.endswith(".tar") or not system.isdir(path):
        return [path]
    places: list[str] = system.glob(f"{glob.escape(path.rstrip('/'))}/*.tar")
    if not places:
        there = sorted(name.rpartition("/")[2] for name in system.ls(path, detail=False))
        raise DataError(
            f"there are no .tar files in {path}, but {', '.join(there[:3]) or 'nothing'}; "
            "shards are tar files that are not compressed"
        )
    return places


def expanded_braces(pattern: str) -> Iterator[str]:
    """``pattern`` with every ``{first..last}`` and ``{one,other}`` replaced by each of its values.

    Numbers have as many digits as the longer of first and last. Other braces stay.
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is None:
        low, high = sorted((int(first), int(last)))
        digits = max(len(first), len(last)) if "0" in (first[0], last[0]) else 1
        values = [f"{number:0{digits}d}" for number in range(low, high + 1)]
    else:
        values = words.split(",")
    rest = list(expanded_braces(pattern[found.end() :]))
    for value, after in itertools.product(values, rest):
        yield pattern[: found.start()] + value + after
