"""Reading rows of examples in batches: here, or ahead in processes of their own."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader

from superbatch.errors import SuperbatchError
from superbatch.types import Batch


Rows = Int64[np.ndarray, "_"]
"""Places in a data set, however many."""
Read = Callable[[Rows], Batch]
"""The batch of some rows, or of whatever else numbers name."""


@runtime_checkable
class Reads(Protocol):
    """Whatever reads examples by their rows."""

    def read(self, rows: Rows, /) -> Batch:
        """The examples of ``rows``, in that order."""
        ...


def batches_of(examples: Reads, rows: Rows, count: int) -> Iterator[Batch]:
    """The examples of ``rows``, once, in order, ``count`` at a time."""
    for start in range(0, len(rows), count):
        yield examples.read(rows[start : start + count])


def read_ahead(read: Read, wanted: Iterable[Rows], *, workers: int) -> Iterator[Batch]:
    """What ``read`` gives of each of ``wanted``, in that order, read by ``workers`` processes.

    They live until the iterator is closed or forgotten. Raises what ``read`` does.
    """
    loader: DataLoader[Batch | SuperbatchError] = DataLoader(
        _Reading(read),  # type: ignore[arg-type]  # by rows, not by one number
        sampler=wanted,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # or the loader would draw from the global one
    )
    for batch in loader:
        if isinstance(batch, SuperbatchError):
            raise batch
        yield batch


@final
class _Reading:
    """An error is handed over as a value, to be raised without the worker's traceback in its
    message.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def __getitem__(self, rows: Rows) -> Batch | SuperbatchError:
        try:
            return self._read(rows)
        except SuperbatchError as error:
            return error
