"""The endless uniform stream of draws, cut into batches."""

from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader

from superbatch.errors import ConfigError, DataError, SuperbatchError
from superbatch.sources.examples import Examples
from superbatch.sources.permutation import EPOCH, permuted, random_bits
from superbatch.sources.views import plain
from superbatch.types import Batch, View, size


@final
class Stream:
    """Batches of ``examples``, those of ``rows`` only, uniform and without end.

    Draw ``d`` belongs to epoch ``d // len(rows)`` and shows the example at position
    ``d % len(rows)`` of that epoch's permutation. The batch of step ``s`` (from 1) is the draws
    ``[(s - 1) * batch_size, s * batch_size)``, or of those the ones that this ``rank`` of
    ``world`` takes in turn, as ``view`` shows them. Every example comes once an epoch.

    ``workers`` processes read ahead, 0: none; the batches are the same. They live until the
    iterator is closed or forgotten. Examples whose images are broken are missing from their batch.
    """

    def __init__(
        self,
        examples: Examples,
        rows: Int64[np.ndarray, " rows"],
        *,
        batch_size: int,
        seed: int,
        view: View = plain,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(rows) == 0:
            raise DataError("there is not one example to draw from; a stream needs at least one")
        if batch_size < 1 or batch_size % world:
            raise ConfigError(
                f"batch_size is {batch_size} and there are {world} ranks; it is the size over all "
                "ranks, so it must be a positive multiple of them"
            )
        if not 0 <= rank < world:
            raise ConfigError(
                f"rank is {rank} and there are {world} ranks; it must be in [0, {world})"
            )
        self.examples = examples
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.view = view
        self.workers = workers
        self.rank = rank
        self.world = world
        self._step = 0
        self._skipped: set[int] = set()

    def __iter__(self) -> Iterator[Batch]:
        """The batches that come after those handed out so far."""
        batches = self._read_here() if self.workers == 0 else self._read_by_workers()
        for batch in batches:
            self._step += 1
            yield batch

    def read(self, draws: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``draws`` again, in that order and seen as they were then.

        The fields of ``examples``, and ``"draw"`` Int64[m]. Raises ``DataError`` if not one image
        can be decoded.
        """
        batch = self._unaccounted(draws)
        self._account(draws, batch)
        return batch

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of all examples known to be left out because their images are broken."""
        return frozenset(self._skipped) | self.examples.skipped

    def state_dict(self) -> dict[str, Any]:
        """How many batches were handed out, whatever workers have read ahead, and what was broken.

        ``{"step": int, "skipped": list of ids}``.
        """
        return {"step": self._step, "skipped": sorted(self._skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to ``state``; iterators made after this start there."""
        self._step = state["step"]
        self._skipped = set(state["skipped"])

    def _draws(self, step: int) -> Int64[np.ndarray, " n"]:
        start = (step - 1) * self.batch_size
        return np.arange(start + self.rank, start + self.batch_size, self.world, dtype=np.int64)

    def _rows_of(self, draws: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        epochs, positions = np.divmod(draws, len(self.rows))
        chosen = np.empty_like(draws)
        for epoch in np.unique(epochs):
            seed = int(random_bits(self.seed, np.array([epoch]), EPOCH)[0])
            here = epochs == epoch
            chosen[here] = permuted(positions[here], length=len(self.rows), seed=seed)
        rows: Int64[np.ndarray, " n"] = self.rows[chosen]
        return rows

    def _unaccounted(self, draws: Int64[np.ndarray, " n"]) -> Batch:
        """What `read` gives; changes nothing here, so that it can be done by a worker."""
        rows = self._rows_of(draws)
        batch = self.examples.read(rows)
        if size(batch) == 0 and len(draws) > 0:
            raise DataError(
                f"not one of the {len(draws)} images of a batch can be decoded, such as that of id "
                f"{self.examples.ids[rows[0]]}; mend or remove them, or check --data.image"
            )
        if size(batch) < len(draws):
            draws = draws[np.isin(self.examples.ids[rows], batch["id"].numpy())]
        return self.view({**batch, "draw": torch.from_numpy(draws)})

    def _account(self, draws: Int64[np.ndarray, " n"], batch: Batch) -> None:
        """Remember which of ``draws`` are missing from ``batch``."""
        if size(batch) < len(draws):
            missing = draws[~np.isin(draws, batch["draw"].numpy())]
            self._skipped.update(self.examples.ids[self._rows_of(missing)].tolist())

    def _read_here(self) -> Iterator[Batch]:
        while True:
            yield self.read(self._draws(self._step + 1))

    def _read_by_workers(self) -> Iterator[Batch]:
        first = self._step + 1
        loader: DataLoader[Batch | SuperbatchError] = DataLoader(
            _Reading(self),  # type: ignore[arg-type]  # by draws, not by one number
            sampler=_Steps(self, first),
            batch_size=None,
            num_workers=self.workers,
            generator=torch.Generator(),  # or the loader would draw from the global one
        )
        for step, batch in enumerate(loader, start=first):
            if isinstance(batch, SuperbatchError):
                raise batch
            self._account(self._draws(step), batch)
            yield batch


@final
class _Steps:
    """The draws of every step from ``first`` on, for a loader to hand to its workers."""

    def __init__(self, stream: Stream, first: int) -> None:
        self._stream = stream
        self._first = first

    def __iter__(self) -> Iterator[Int64[np.ndarray, " n"]]:
        step = self._first
        while True:
            yield self._stream._draws(step)
            step += 1


@final
class _Reading:
    """Batches by their draws. An error is handed over as a value, to be raised without the
    worker's traceback in its message.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, draws: Int64[np.ndarray, " n"]) -> Batch | SuperbatchError:
        try:
            return self._stream._unaccounted(draws)
        except SuperbatchError as error:
            return error
