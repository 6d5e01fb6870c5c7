"""Files that are whole or absent, written beside their place, then moved there; and locks."""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from superbatch.errors import Failed, RunError


try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None  # type: ignore[assignment]


def out_of_space(error: OSError) -> bool:
    """Whether ``error`` is a full disk or a full quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def refusal(error: BaseException) -> str | None:
    """Why the system refuses a file, such as "Permission denied"; None of any other error, after
    which the file may be damaged.
    """
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while ``path`` is written into a ``RunError`` with a way out,
    ``Failed`` where it is full.
    """
    try:
        yield
    except Exception as error:
        refused = _from_the_disk(error)
        if refused is None:
            raise
        if not out_of_space(refused):
            raise RunError(f"cannot write {path}: {refused.strerror or refused}") from error
        raise Failed(
            f"no space left on the device while writing {path}; what was there before is "
            "unharmed. Free some space, then give the same command again, or continue a run "
            "that had begun with --resume"
        ) from error


def _from_the_disk(error: BaseException | None) -> OSError | None:
    """The ``OSError`` behind ``error``: torch's writer hides it behind errors of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there. A kill leaves old or new.

    Raises ``RunError`` where the disk refuses. ``write`` must not hide the disk's ``OSError``.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            write(beside)
            keep(beside)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        keep(path.parent)


def half_written(folder: Path, name: str = "*", *, below: bool = False) -> list[Path]:
    """What a kill has left in ``folder`` of files of that ``name`` that were being written; or in
    all folders ``below`` it, too.
    """
    look = folder.rglob if below else folder.glob
    found = look(f".{name}.????????")
    return [path for path in found if _OF_WRITING.fullmatch(path.suffix) and path.is_file()]


_OF_WRITING = re.compile(r"\.[0-9a-f]{8}")


def keep(path: Path) -> None:
    """Have what is in ``path``, a file or a folder, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, atomically."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type, way_out: str) -> Any:
    """The ``dict`` or ``list``, as ``kind`` says, in ``path``.

    Raises ``RunError`` where none is there; ``way_out`` says what to do then.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not even text
        raise RunError(f"{path} is not valid JSON ({error}); {way_out}") from error
    if not isinstance(value, kind):
        wanted = "a list" if kind is list else "an object"
        raise RunError(f"{path} holds a {type(value).__name__}, not {wanted}; {way_out}")
    return value


def cache_folder(kind: str) -> Path:
    """Where ``kind`` is kept for the user: in ``SUPERBATCH_CACHE``, or where caches usually are."""
    usual = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("SUPERBATCH_CACHE") or f"{usual}/superbatch"
    return Path(folder).expanduser() / kind


def memory() -> float:
    """Bytes of this machine's memory; without bound where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def file_digest(path: Path) -> str:
    """16 hexadecimal digits of what is in ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()


def array_digest(values: np.ndarray) -> str:
    """16 hexadecimal digits of what is in ``values``."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).hexdigest()


class Lock:
    """A file that one process has to itself, until it releases it or ends, however it ends.

    Where there are no locks, on this system or for this file, everybody has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def take(self) -> bool:
        """Whether it could be taken."""
        if fcntl is None:
            return True
        try:
            self._file = self._path.open("rb+")
            _HELD.add(self._file)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            _HELD.discard(self._file)
            self._file.close()
            self._file = None


_HELD: set[IO[bytes]] = set()


def _keep_none() -> None:
    for file in _HELD:
        file.close()


# A process that was forked has its starter's files, and would hold on to what a kill releases.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_none)
