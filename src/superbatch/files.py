"""Files that are whole or absent: written beside their place, then moved there."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superbatch.errors import RunError


def out_of_space(error: OSError) -> bool:
    """Whether ``error`` is a full disk or a full quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_is_an_error(path: Path) -> Iterator[None]:
    """Turn "no space left" while writing ``path`` into a ``RunError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if not out_of_space(error):
            raise
        raise RunError(
            f"no space left on the device while writing {path}; what was there before is "
            "unharmed. Free some space and continue with --resume"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there. A kill leaves old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_an_error(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        try:
            write(beside)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            # torch's writer hides a full disk in a RuntimeError of its own.
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, atomically."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
