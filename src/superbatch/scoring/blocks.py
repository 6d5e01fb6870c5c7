"""Scoring a data set: one loss an example, in blocks that a kill cannot take back.

Examples are scored in the order of their ids, a block at a time. A finished block is a part file;
who starts again finds it and scores the others. The cut into blocks and batches is always the
same, so the finished table is too, however often the work was interrupted.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from torch import Tensor

from superbatch.errors import DataError, RunError
from superbatch.files import read_json, refusal, write_atomically, write_json
from superbatch.sources.examples import BROKEN_LIMIT
from superbatch.sources.reading import Rows, read_ahead
from superbatch.tables.check import Readable
from superbatch.tables.file import Piece
from superbatch.tables.fingerprint import fingerprint, summed
from superbatch.types import Batch, size, to_device


T = TypeVar("T")

Measure = Callable[[Batch], Mapping[str, Tensor]]
"""What is measured of a batch, by column: losses Float[n], embeddings Float[n, d]."""


@dataclass(frozen=True)
class Job:
    """What is scored, and how it is cut."""

    examples: Readable
    measure: Measure
    blocks: Sequence[Rows]
    """Rows of each block, ids ascending within and across blocks: see `blocks_of`."""
    batch_size: int
    device: torch.device
    workers: int = 0
    """Processes that read and decode ahead."""


def blocks_of(ids: Int64[np.ndarray, " rows"], rows: Rows, block_size: int) -> list[Rows]:
    """``rows`` in the order of their ids, in blocks of ``block_size``; the last may be smaller."""
    ordered = rows[np.argsort(ids[rows], kind="stable")]
    return np.split(ordered, range(block_size, len(ordered), block_size))


@dataclass(frozen=True)
class Totals:
    """What all blocks came to."""

    rows: int
    fingerprint: str
    skipped: int
    not_finite: int


@final
class Parts:
    """The finished blocks of a job, a file each, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, about: Mapping[str, Any]) -> None:
        """Begin, or go on with, the job that ``about`` describes.

        Raises ``RunError`` naming what differs if the folder has blocks of another job.
        """
        path = self.folder / "about.json"
        if path.is_file():
            there = read_json(path, dict, f"remove {self.folder} to score all again")
            unlike = [
                f"{name} ({there.get(name)} and {about.get(name)})"
                for name in sorted(there.keys() | about.keys())
                if there.get(name) != about.get(name)
            ]
            if unlike:
                raise RunError(
                    f"{self.folder} holds the blocks of another scoring, which differs in "
                    f"{'; '.join(unlike)}; remove it, or give another --out"
                )
        else:
            write_json(path, about)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: no other process scores into the folder, which is claimed.

        Raises ``RunError`` where one does. Systems without such locks do not notice.
        """
        with (self.folder / "about.json").open("rb") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"another superbatch score writes to {self.folder} now; wait until it ends, "
                    "or give another --out"
                ) from error
            except (ImportError, OSError):
                pass
            yield

    def left(self, count: int) -> list[int]:
        """Which of ``count`` blocks are not finished."""
        return [number for number in range(count) if not self._path(number).is_file()]

    def write(self, number: int, table: pa.Table) -> None:
        """Keep a finished block, atomically."""
        write_atomically(self._path(number), lambda beside: pq.write_table(table, beside))

    def totals(self, count: int, *, of: int) -> Totals:
        """What the ``count`` blocks, all finished, came to, in data of so many examples.

        Raises ``DataError`` as images do, if over 1 % of the data are broken.
        """
        about = [self._read(number, _about) for number in range(count)]
        rows, skipped, not_finite = (
            sum(one[name] for one in about) for name in ("rows", "skipped", "not_finite")
        )
        if skipped > BROKEN_LIMIT * of:
            raise DataError(
                f"{skipped} of {of} images cannot be decoded (the limit is "
                f"{BROKEN_LIMIT:.0%}); mend or remove them, or check --data.image"
            )
        return Totals(rows, summed(*(one["fingerprint"] for one in about)), skipped, not_finite)

    def tables(self, count: int) -> Iterator[pa.Table]:
        """The ``count`` blocks, all finished, in order."""
        for number in range(count):
            yield self._read(number, pq.read_table)

    def pieces(self, count: int, columns: Sequence[str]) -> Iterator[Piece]:
        """The rows of the ``count`` blocks with the losses in ``columns``."""
        for table in self.tables(count):
            if table.num_rows:
                losses = {name: table[name].to_numpy() for name in columns}
                yield Piece(table["id"].to_numpy(), losses)

    def remove(self) -> None:
        """Once the table is there. A kill leaves all of them or none, as far as anyone looks."""
        done = self.folder.with_name(f".{self.folder.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(done)
        shutil.rmtree(done, ignore_errors=True)

    def _read(self, number: int, call: Callable[[Path], T]) -> T:
        """What ``call`` reads of a block. A ``DataError`` says which file is damaged."""
        path = self._path(number)
        try:
            return call(path)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            refused, reason = refusal(error), " ".join(str(error).split())
        # Raised here, without a context, as `superbatch.tables.file.read` does.
        if refused:
            raise DataError(f"cannot read {path}: {refused}")
        raise DataError(
            f"{path} is damaged ({reason}); remove it, and the same command scores that block again"
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"


def _about(path: Path) -> dict[str, Any]:
    """What a block says it came to."""
    about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[b"block"])
    return about


@runtime_checkable
class Kept(Protocol):
    """Where finished blocks go."""

    def write(self, number: int, table: pa.Table) -> None:
        """Keep a finished block."""
        ...


def score(job: Job, parts: Kept, numbers: Iterable[int], progress: Callable[[int], None]) -> None:
    """Score the blocks ``numbers`` of ``job`` into ``parts``; ``progress`` is told rows as added.

    Raises whatever reading the data raises.
    """
    for number, batches in _read(job, numbers):
        measured: list[tuple[Tensor, Mapping[str, Tensor]]] = []
        for batch in batches:
            if size(batch):
                measured.append((batch["id"], job.measure(to_device(batch, job.device))))
            progress(size(batch))
        parts.write(number, _block(job, number, measured))


def _block(
    job: Job, number: int, measured: Sequence[tuple[Tensor, Mapping[str, Tensor]]]
) -> pa.Table:
    """A finished block as a table; rows with a loss that is not finite are left out."""
    rows = job.blocks[number]
    ids = _joined([ids for ids, _ in measured], np.int64)
    names = list(measured[0][1]) if measured else []
    columns = {name: _joined([one[name] for _, one in measured], np.float32) for name in names}
    finite = np.ones(len(ids), dtype=bool)
    for values in columns.values():
        finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    ids = ids[finite]
    about = {
        "rows": len(ids),
        "skipped": len(rows) - len(finite),
        "not_finite": int((~finite).sum()),
        "fingerprint": fingerprint(job.examples, rows[np.isin(job.examples.ids[rows], ids)]),
    }
    table = pa.table(
        {"id": ids} | {name: _column(values[finite]) for name, values in columns.items()}
    )
    return table.replace_schema_metadata({"block": json.dumps(about)})


def _joined(parts: Sequence[Tensor], kind: type[np.generic]) -> np.ndarray:
    return torch.cat(list(parts)).cpu().numpy().astype(kind) if parts else np.zeros(0, dtype=kind)


def _column(values: np.ndarray) -> pa.Array:
    """Losses as float32; embeddings as lists of float16, whose error is below 0.001 of a vector."""
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(values.astype(np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _read(job: Job, numbers: Iterable[int]) -> Iterator[tuple[int, Iterator[Batch]]]:
    """For each block its batches, read ahead by workers where there are any."""
    wanted = list(numbers)
    cuts = {number: _cut(job.blocks[number], job.batch_size) for number in wanted}
    plan = [rows for number in wanted for rows in cuts[number]]
    batches = _batches(job, plan)
    for number in wanted:
        yield number, (next(batches) for _ in cuts[number])


def _cut(rows: Rows, batch_size: int) -> list[Rows]:
    return np.split(rows, range(batch_size, len(rows), batch_size))


def _batches(job: Job, plan: Sequence[Rows]) -> Iterator[Batch]:
    if job.workers == 0:
        return map(job.examples.read, plan)
    return read_ahead(job.examples.read, plan, workers=job.workers)
