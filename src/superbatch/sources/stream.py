"""Draws, cut into batches: the endless uniform stream, and what every stream has in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from superbatch.distributed import share
from superbatch.errors import ConfigError, DataError
from superbatch.sources.permutation import EPOCH, permuted, random_bits
from superbatch.sources.reading import read_ahead
from superbatch.sources.views import plain
from superbatch.types import Batch, View, size


@runtime_checkable
class Readable(Protocol):
    """Examples that a stream can read: images with labels or texts, or texts with labels."""

    ids: Int64[np.ndarray, " rows"]
    """The name of each row's example, the same in any run."""
    fingerprint: str
    """Tells two data sets apart."""

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the examples that were left out because they are broken, so far."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``rows`` in that order, without those that are broken.

        ``"id"`` Int64[m] and other fields; ``m`` is ``n`` less the broken ones.
        """
        ...


class Batches(ABC):
    """Batches of ``examples`` in some order, cut from its positions 0, 1, 2, ...

    The batch of step ``s`` (from 1) is the positions ``[(s - 1) * batch_size, s * batch_size)``, if
    a stream does not cut them otherwise (`bounds`), or the part of those that is this ``rank``'s:
    the parts of all ``world`` ranks, one after another, are the batch. All as ``view`` shows them.
    So resuming is arithmetic, on as many ranks or others. Which draw and which example stand at a
    position, a stream says.

    ``workers`` processes read ahead, 0: none; the batches are the same. They live until the
    iterator is closed or forgotten. Examples whose images are broken are missing from their batch.
    """

    rows: Int64[np.ndarray, " _"]
    """The rows of ``examples`` that batches are made of."""

    def __init__(
        self,
        examples: Readable,
        *,
        batch_size: int,
        view: View = plain,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
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
        self.batch_size = batch_size
        self.view = view
        self.workers = workers
        self.rank = rank
        self.world = world
        self._step = 0
        self._skipped: set[int] = set()

    @abstractmethod
    def rows_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The row of ``examples`` at each of ``positions``."""

    @abstractmethod
    def draws_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The draw at each of ``positions``: what decides its view, and its name in `read`."""

    @abstractmethod
    def positions_of(self, draws: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """A position for each of ``draws``."""

    def bounds(self, step: int) -> tuple[int, int]:
        """The first position of the batch of ``step``, and the first one after it."""
        return (step - 1) * self.batch_size, step * self.batch_size

    def steps_from(self, first: int) -> Iterable[int]:
        """The steps that there are, from ``first`` on."""
        return count(first)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that come after those handed out so far."""
        batches = self._read_here() if self.workers == 0 else self._read_by_workers()
        for batch in batches:
            self._step += 1
            yield batch

    def read(self, draws: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``draws`` again, in that order and seen as they were then.

        The fields of ``examples``, and ``"draw"`` Int64[m]. Raises ``DataError`` if not one image
        can be decoded; of several ranks, whoever needs them all looks at how many came.
        """
        return self._read(self.positions_of(draws))

    def ids_of(self, step: int) -> Int64[np.ndarray, " n"]:
        """The ids of the batch of ``step``, whether they can be read or not."""
        ids: Int64[np.ndarray, " n"] = self.examples.ids[self.rows_at(self._positions(step))]
        return ids

    def batch_of(self, step: int) -> tuple[Batch, frozenset[int]]:
        """The batch of ``step``, and the ids that are missing from it; nothing is handed out."""
        positions = self._positions(step)
        batch = self._unaccounted(positions)
        return batch, self._missing(positions, batch)

    def handed_out(self, missing: frozenset[int]) -> None:
        """Count the next batch as handed out: it was read elsewhere, by `batch_of`."""
        self._step += 1
        self._skipped |= missing

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

    def _positions(self, step: int) -> Int64[np.ndarray, " n"]:
        start, stop = self.bounds(step)
        positions = np.arange(start, stop, dtype=np.int64)
        return positions[share(stop - start, self.rank, self.world)]

    def _read(self, positions: Int64[np.ndarray, " n"]) -> Batch:
        batch = self._unaccounted(positions)
        self._account(positions, batch)
        return batch

    def _unaccounted(self, positions: Int64[np.ndarray, " n"]) -> Batch:
        """What `_read` gives; changes nothing here, so that it can be done by a worker."""
        rows, draws = self.rows_at(positions), self.draws_at(positions)
        batch = self.examples.read(rows)
        # Of several ranks' parts one may come out empty: whoever has them all looks at the whole.
        if size(batch) == 0 and len(draws) > 0 and self.world == 1:
            raise DataError(
                f"not one of the {len(draws)} images of a batch can be decoded, such as that of id "
                f"{self.examples.ids[rows[0]]}; mend or remove them, or check --data.image"
            )
        if size(batch) < len(draws):
            draws = draws[np.isin(self.examples.ids[rows], batch["id"].numpy())]
        return self.view({**batch, "draw": torch.from_numpy(draws)})

    def _account(self, positions: Int64[np.ndarray, " n"], batch: Batch) -> None:
        """Remember which of ``positions`` are missing from ``batch``."""
        self._skipped |= self._missing(positions, batch)

    def _missing(self, positions: Int64[np.ndarray, " n"], batch: Batch) -> frozenset[int]:
        """The ids at ``positions`` that are not in ``batch``."""
        if size(batch) == len(positions):
            return frozenset()
        missing = positions[~np.isin(self.draws_at(positions), batch["draw"].numpy())]
        return frozenset(self.examples.ids[self.rows_at(missing)].tolist())

    def _read_here(self) -> Iterator[Batch]:
        for step in self.steps_from(self._step + 1):
            yield self._read(self._positions(step))

    def _read_by_workers(self) -> Iterator[Batch]:
        first = self._step + 1
        ahead = read_ahead(self._unaccounted, _Steps(self, first), workers=self.workers)
        for step, batch in enumerate(ahead, start=first):
            self._account(self._positions(step), batch)
            yield batch


@final
class Stream(Batches):
    """Batches of ``examples``, those of ``rows`` only, uniform and without end.

    Draw ``d`` stands at position ``d``: it belongs to epoch ``d // len(rows)`` and shows the
    example at ``d % len(rows)`` of that epoch's permutation. Every example comes once an epoch.
    How positions make batches, and what the other settings mean, says `Batches`.
    """

    def __init__(
        self,
        examples: Readable,
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
        super().__init__(
            examples, batch_size=batch_size, view=view, workers=workers, rank=rank, world=world
        )
        self.rows = rows
        self.seed = seed
        self._stretch = _Stretch(epoch=0, first=0, places=np.empty(0, dtype=np.int64))

    def rows_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows at ``positions``, each of its own epoch's permutation."""
        epochs, places = np.divmod(positions, len(self.rows))
        chosen = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            chosen[here] = self._permuted(epoch, places[here])
        rows: Int64[np.ndarray, " n"] = self.rows[chosen]
        return rows

    def _permuted(self, epoch: int, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """What ``epoch``'s permutation has at ``places``, of which there is one at least.

        A few take as long as thousands: where they lie together, those that come next are found
        with them, and kept.
        """
        first, last, length = int(places.min()), int(places.max()), len(self.rows)
        if not self._stretch.has(epoch, first, last):
            seed = int(random_bits(self.seed, np.array([epoch]), EPOCH)[0])
            if last - first >= _TOGETHER:
                return permuted(places, length=length, seed=seed)
            next_ones = np.arange(first, min(first + _TOGETHER, length), dtype=np.int64)
            found = permuted(next_ones, length=length, seed=seed)
            self._stretch = _Stretch(epoch, first, found)
        held: Int64[np.ndarray, " n"] = self._stretch.places[places - self._stretch.first]
        return held

    def draws_at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The positions themselves."""
        return positions

    def positions_of(self, draws: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The draws themselves."""
        return draws


_TOGETHER = 4096
"""Places of a permutation that are found at once."""


@dataclass(frozen=True)
class _Stretch:
    """What an epoch's permutation has from place ``first`` on."""

    epoch: int
    first: int
    places: Int64[np.ndarray, " n"]

    def has(self, epoch: int, first: int, last: int) -> bool:
        """Whether all of ``first`` to ``last`` of ``epoch`` are in it."""
        here = self.epoch == epoch and self.first <= first
        return here and last < self.first + len(self.places)


@final
class _Steps:
    """The positions of every step from ``first`` on, for a loader to hand to its workers."""

    def __init__(self, stream: Batches, first: int) -> None:
        self._stream = stream
        self._first = first

    def __iter__(self) -> Iterator[Int64[np.ndarray, " n"]]:
        return map(self._stream._positions, self._stream.steps_from(self._first))
