"""A table of losses in the place of a model."""

from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from superbatch.errors import DataError
from superbatch.tables.dense import Lookup, lookup
from superbatch.tables.file import TableFile, place_of
from superbatch.tables.provenance import Provenance, ScoredBy
from superbatch.types import Batch, LossSource, take


_AT_ONCE = 1_000_000


@final
class LossTable:
    """A `LossSource` that looks losses up by ``"id"``. Make one with `LossTable.open`."""

    def __init__(
        self, file: TableFile, column: str, losses: Lookup, missing: LossSource | None = None
    ) -> None:
        self.path = file.path
        self.provenance: Provenance = file.provenance
        self.column = column
        self.missing = missing
        """What scores the examples that have no row; none: they are an error."""
        self._losses = losses
        self._rows = len(file)

    @staticmethod
    def open(
        path: str | Path, column: str | None = None, *, missing: LossSource | None = None
    ) -> "LossTable":
        """The losses in ``column`` of the table at ``path``; its only column where none is named.

        A path ``TABLE::COLUMN`` names the column too.

        The first time, the memory map that is read at run time is made: about a second for 1e8
        rows, and 4 bytes a row beside the table. Raises ``DataError`` for a file that is no table,
        is damaged, has no such column, ids twice or out of order, or losses that are not finite.
        """
        place, named = place_of(path)
        file = TableFile(place)
        name = file.column(named if column is None else column)
        return LossTable(file, name, lookup(file, name), missing)

    def __len__(self) -> int:
        return self._rows

    @property
    def scorer(self) -> ScoredBy:
        """The model that the losses are of."""
        return self.provenance.columns[self.column]

    def __call__(self, batch: Batch) -> Float[Tensor, " n"]:
        """The loss of each example, fp32, where the batch is.

        Raises ``DataError`` with the count if an id has no row and nothing scores such examples.
        """
        ids = batch["id"]
        found = self._losses(ids.cpu().numpy())
        absent = np.isnan(found)
        losses = torch.from_numpy(found).to(ids.device)
        if not absent.any():
            return losses
        if self.missing is None:
            raise DataError(self.sentence(int(absent.sum()), len(found), int(ids[absent.argmax()])))
        rows = torch.from_numpy(np.flatnonzero(absent)).to(ids.device)
        return losses.index_copy(0, rows, self.missing(take(batch, rows)).float())

    def has(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each id has a row."""
        parts = [
            ~np.isnan(self._losses(ids[start : start + _AT_ONCE]))
            for start in range(0, len(ids), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    def lacks(self, ids: Int64[np.ndarray, " n"]) -> int:
        """How many of ``ids`` have no row."""
        return len(ids) - int(np.count_nonzero(self.has(ids)))

    def sentence(self, count: int, total: int, example: int) -> str:
        """Says that ``count`` of ``total`` examples have no row, and what to do."""
        return (
            f"{count} of {total} examples have no loss in {self.path}, such as id {example}; "
            f"score them with superbatch score --append {self.path}, or while training with "
            "--reference-missing CHECKPOINT"
        )
