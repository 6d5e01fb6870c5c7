"""The run folder: append-only, readable while the run goes on, and rewound to a checkpoint.

config.json       the resolved configuration; repeats the run exactly
environment.json  versions, device, git commit, command
metrics.jsonl     one object a logged step
selection/        parquet: step, id, score, chosen, loss (or what else is measured) by role
chosen/           parquet: step, id, draw of what was learned, in that order
checkpoints/      everything with state, and the final weights
summary.json      at the end
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from superbatch import launch
from superbatch.distributed import from_main
from superbatch.errors import RunError
from superbatch.files import (
    Lock,
    half_written,
    keep,
    read_json,
    write_atomically,
    write_json,
    write_text,
    writing,
)
from superbatch.integers import Integers, write_integers
from superbatch.types import Metrics


_LOOK_AGAIN = 0.5  # seconds
_SEEN_AS_GONE = 120.0  # seconds; of a host, by NFS


class RunFolder:
    """One run on disk. Without ``writes`` it is only read, and what a run appends goes nowhere:
    of several ranks one writes.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self._lock = Lock(path / "config.json")

    @classmethod
    def open(cls, path: Path, *, writes: bool = True) -> "RunFolder":
        """The run in ``path``. Raises ``RunError`` where there is none."""
        if not (path / "config.json").is_file():
            raise RunError(
                f"{path} is not a run folder: it has no config.json; start a run there with "
                f"superbatch train RECIPE --out {path}"
            )
        return cls(path, writes=writes)

    def refuse_taken(self) -> None:
        """Raise ``RunError`` where anything is there already."""
        if (self.path / "config.json").exists():
            raise RunError(
                f"{self.path} exists; continue that run with --resume {self.path}, "
                "or give a new --out"
            )
        killed = half_written(self.path, "config.json")  # a run that had hardly begun
        if self.path.is_dir() and set(self.path.iterdir()) <= set(killed):
            return
        if self.path.exists():
            raise RunError(f"{self.path} exists and is not a run; give a new --out")

    def create(self, config: Any, environment: Any) -> None:
        """Make the folder, with what the run is and depends on."""
        self.refuse_taken()
        write_json(self.path / "config.json", config)  # first: with it the folder is a run
        self.describe(environment)

    def describe(self, environment: Any) -> None:
        """Write what the run depends on, unless it is known."""
        path = self.path / "environment.json"
        if not path.exists():
            write_json(path, environment)

    def take(self, patience: float = 0.0) -> None:
        """Have the folder to oneself until ``leave``, or raise ``RunError`` where another process
        does not leave it within ``patience`` seconds.
        """
        until = time.monotonic() + patience
        while not self._lock.take():
            if time.monotonic() > until:
                raise RunError(
                    f"another process is training in {self.path}, and two would write over each "
                    "other; wait for it or stop it (over a network, a host that died may hold a "
                    "folder for minutes), or give a new --out"
                )
            time.sleep(_LOOK_AGAIN)

    def leave(self) -> None:
        """Let others train in the folder."""
        self._lock.release()

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    def config(self) -> Any:
        """The configuration that the run was started with, as JSON values."""
        return read_json(self.path / "config.json", dict, "restore it, or start a new run")

    def summary(self) -> Any:
        """What the finished run came to; ``None`` while it is not finished."""
        path = self.path / "summary.json"
        mend = f"restore it, or remove it and write it again with train --resume {self.path}"
        if not path.is_file():
            return None
        said = read_json(path, dict, mend)
        # The folder may have moved since.
        here = {"checkpoint": str(self.checkpoints / "learner.safetensors")}
        return said | here if "checkpoint" in said else said

    def finish(self, summary: Any) -> None:
        """Write the summary: the run is done."""
        write_json(self.path / "summary.json", summary)

    def append_metrics(self, row: Metrics) -> None:
        """One line more, which outlasts a kill; a loss of power, once `keep_metrics` was called."""
        if not self.writes:
            return
        path = self.path / "metrics.jsonl"
        # A loss that is not finite is a fact of the run; JSON has no word for it but null.
        finite = {name: value if abs(value) < float("inf") else None for name, value in row.items()}
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def keep_metrics(self) -> None:
        """Have all lines so far on disk: what is written next may count on them."""
        path = self.path / "metrics.jsonl"
        if self.writes and path.is_file():
            with writing(path):
                keep(path)
                keep(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line so far; a line that a kill cut short does not count."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return [
            metrics_row(line, f"{path}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line.endswith("\n")
        ]

    def diverged(self) -> bool:
        """Whether the learner's loss was no number any more when it was last logged."""
        rows = self.metrics()
        return bool(rows) and rows[-1].get("learner/loss", 0.0) is None

    def write_selection(self, first: int, last: int, columns: Mapping[str, np.ndarray]) -> None:
        """The choices of steps ``first`` to ``last`` as one more part."""
        if not self.writes:
            return
        # What is not known of an example that the bank gave again (NaN) is null in the file.
        types = {"step": pa.int32(), "id": pa.int64(), "chosen": pa.bool_()}
        arrays = {
            name: pa.array(values, type=types.get(name, pa.float32()), from_pandas=True)
            for name, values in columns.items()
        }
        path = self.path / "selection" / part_name(first, last)
        table = pa.table(arrays)
        write_atomically(path, lambda beside: pq.write_table(table, beside, compression="zstd"))

    def write_chosen(
        self, first: int, last: int, columns: Mapping[str, Integers], *, fingerprint: str
    ) -> None:
        """What steps ``first`` to ``last`` learned from, in that order, as one more part.

        ``columns`` are ``"step"`` Int32, ``"id"`` and ``"draw"`` Int64; ``fingerprint`` is that of
        the data.
        """
        if not self.writes:
            return
        path = self.path / "chosen" / part_name(first, last)
        write_integers(path, columns, kind="record", about={"fingerprint": fingerprint})

    def parts(self, name: str) -> list[Path]:
        """The parts of ``name``/ in the order of their steps."""
        return sorted((self.path / name).glob("*.parquet"))

    def rewind(self, step: int) -> None:
        """Forget everything after ``step``: it is about to happen again, the same."""
        if not self.writes:
            return
        rows = [row for row in self.metrics() if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = self.path / "metrics.jsonl"
        if path.is_file():
            write_text(path, text)
        for part in (*self.parts("selection"), *self.parts("chosen")):
            if first_step(part) > step:
                part.unlink()
        for rest in half_written(self.path, below=True):
            rest.unlink()


def metrics_row(line: str, place: str) -> dict[str, Any]:
    """A line of ``metrics.jsonl``. Raises ``RunError`` naming its ``place`` where it is none."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RunError(f"{place} is not valid JSON ({error}); restore or remove it") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise RunError(f"{place} is no object with a step; restore or remove it")
    return row


@contextmanager
def taken(folder: RunFolder, timeout_seconds: float) -> Iterator[None]:
    """Within: no other process trains in ``folder``; for all. ``RunError`` where one does.

    Ranks wait for it for half of ``timeout_seconds`` at most: those that are started again after a
    loss may come before the file system has seen it.
    """
    patience = min(_SEEN_AS_GONE, timeout_seconds / 2) if launch.started() else 0.0
    from_main(lambda: folder.take(patience))
    try:
        yield
    finally:
        folder.leave()


def part_name(first: int, last: int) -> str:
    """The file of steps ``first`` to ``last``; names sort as steps do."""
    return f"{first:08d}-{last:08d}.parquet"


def first_step(part: Path) -> int:
    """The first step in a file of that name."""
    return int(part.stem.split("-")[0])


def last_step(part: Path) -> int:
    """The last step in a file of that name."""
    return int(part.stem.split("-")[1])
