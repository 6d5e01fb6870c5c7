"""Actors of several ranks as one: each scores its part of a super-batch, and all see the whole.

Ids, draws, labels and scores travel between ranks; pixels never do. What a rank is to learn from
and does not hold, it reads again by its draw. One process has all there is, and nothing happens.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from superbatch.actors import Actors, Scored
from superbatch.actors.scorers import Scorer, given
from superbatch.criterion import Criterion
from superbatch.distributed import (
    counts,
    gather_batch,
    gather_rows,
    share,
    share_of_choice,
    world,
)
from superbatch.errors import DataError
from superbatch.joint import without_factors
from superbatch.learner import Learner
from superbatch.passes import split
from superbatch.sources.duplicates import duplicates
from superbatch.types import Batch, Metrics, Role, concat, size, take


PIXELS = "image"
"""The field that does not travel."""

ReadDraws = Callable[[Int64[Tensor, " n"]], Batch]
"""The examples of draws, in their order."""


def travelling(batch: Batch) -> Batch:
    """What every rank has of ``batch``: all of it in one process, else all but pixels."""
    if world()[1] == 1:
        return batch
    return {name: field for name, field in batch.items() if name != PIXELS}


class Shares:
    """A rank's share of what all ranks chose, with its pixels.

    Those of the super-batch that it scored last it holds, if it did; others are ``read`` again by
    their draw.
    """

    def __init__(self, read: ReadDraws) -> None:
        self._read = read
        self._held: Batch = {}
        self.read_again = 0
        """How many examples had to be read a second time, so far."""

    def hold(self, batch: Batch) -> None:
        """Keep ``batch``, if it has examples with pixels or tokens, in place of the one before."""
        own = without_factors(batch)
        shows = any(field.ndim > 1 and len(field) > 0 for field in own.values())
        self._held = own if shows else {}

    def __call__(self, chosen: Batch) -> Batch:
        """This rank's share of ``chosen``, which are the same on every rank; a ``View``, for all.

        Raises ``ConfigError`` where there is not one for each rank, ``DataError`` where another
        rank could read an image and this one cannot.
        """
        index = share_of_choice(torch.arange(size(chosen)))
        return self.whole(chosen if len(index) == size(chosen) else take(chosen, index))

    def whole(self, batch: Batch) -> Batch:
        """``batch`` with its pixels, and what it says of its examples; itself if it has them.

        Raises ``DataError`` where an image could be read before and cannot be any more, or another
        example is read.
        """
        if PIXELS in batch or (self._held and self._held.keys() <= batch.keys()):
            return batch
        pixels = (self._with_pixels if self._held else self._again)(batch["draw"])
        refuse_others(pixels, batch)
        return {**pixels, **batch}

    def _with_pixels(self, draws: Int64[Tensor, " n"]) -> Batch:
        ascending, order = self._held["draw"].sort()
        places = torch.searchsorted(ascending, draws).clamp(max=len(ascending) - 1)
        here = ascending[places] == draws
        found = take(self._held, order[places[here]])
        away = draws[~here]
        if len(away):
            again = self._again(away)
            found = concat(found, {name: again[name] for name in found})
        # Those that are here stand before the others: back to the order of the draws.
        return take(found, torch.argsort(torch.argsort((~here).int(), stable=True)))

    def _again(self, draws: Int64[Tensor, " n"]) -> Batch:
        again = self._read(draws)
        if size(again) < len(draws):
            raise DataError(
                f"{len(draws) - size(again)} images that were read when they were scored cannot be "
                "decoded here and now; every host must see the same data, and keep it"
            )
        self.read_again += len(draws)
        return again


def refuse_empty(count: int) -> None:
    """Raise ``DataError`` where all ranks together could read a ``count`` of 0 images."""
    if count == 0:
        raise DataError(
            "not one image of a super-batch can be decoded, on any rank; mend or remove them, or "
            "check --data.image"
        )


def refuse_others(found: Batch, wanted: Batch) -> None:
    """Raise ``DataError`` unless the examples ``found`` by the draws of ``wanted`` are those."""
    other = torch.nonzero(found["id"].to(wanted["id"].device) != wanted["id"]).flatten()
    if len(other):
        draw, example, here = (
            int(field[other[0]]) for field in (wanted["draw"], wanted["id"], found["id"])
        )
        raise DataError(
            f"draw {draw} was example {example} when it was scored and is {here} here and now; "
            "every host must see the same data, and keep it"
        )


class Gathered:
    """What the ``actors`` of all ranks score, each its part, as one super-batch (`travelling`).

    ``shares`` holds this rank's pixels. Scores are made of the gathered losses, since a criterion
    may look at the whole super-batch.
    """

    def __init__(self, actors: Actors, criterion: Criterion, shares: Shares) -> None:
        self._actors = actors
        self._criterion = criterion
        self._shares = shares

    def __iter__(self) -> Iterator[Scored]:
        """The next super-batch of every rank, when all have theirs."""
        for scored in self._actors:
            self._shares.hold(scored.examples)
            if world()[1] == 1:
                yield scored
                continue
            light = travelling(scored.examples)
            of_roles = {f"loss/{role}": losses for role, losses in scored.losses.items()}
            everywhere = gather_batch({**light, **of_roles})
            refuse_empty(size(everywhere))
            examples = {name: everywhere[name] for name in light}
            losses = {role: everywhere[f"loss/{role}"] for role in scored.losses}
            sources = {role: given(found) for role, found in losses.items()}
            scores = self._criterion.score(examples, sources)
            yield Scored(examples, scores, losses, min(counts(scored.weights_step)))

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """Each rank's own."""
        self._actors.publish(step, trained)

    def metrics(self) -> Metrics:
        """Each rank's own."""
        return self._actors.metrics()

    def close(self) -> None:
        """Each rank's own."""
        self._actors.close()


class Renewal:
    """New scores for examples that a bank holds, each rank its part; for all."""

    def __init__(
        self, scorer: Scorer, criterion: Criterion, shares: Shares, *, part_size: int
    ) -> None:
        self._scorer = scorer
        self._criterion = criterion
        self._shares = shares
        self._part_size = part_size

    def __call__(self, held: Batch) -> Float[Tensor, " n"]:
        """Scores with the weights of now; no more than ``part_size`` go through a model at once."""
        rank, ranks = world()
        # A rank that fell out would leave the others waiting: where there are too few, it scores
        # the first ones too.
        rows = torch.arange(max(size(held), ranks)) % size(held)
        own = self._shares.whole(take(held, rows[share(len(rows), rank, ranks)]))
        seen = [
            self._scorer(part).losses for part in split(own, self._part_size, counts(size(own)))
        ]
        sources = {
            role: given(gather_rows(torch.cat([part[role] for part in seen]))[: size(held)])
            for role in sorted(self._criterion.roles)
        }
        return self._criterion.score(held, sources)


def without_duplicates(batch: Batch) -> tuple[Batch, int]:
    """This rank's ``batch`` without what came earlier in it or on an earlier rank, and how many
    duplicates all ranks had; for all.
    """
    rank, _ = world()
    found = duplicates(gather_batch(travelling(batch)))
    first = sum(counts(size(batch))[:rank])
    own = found[first : first + size(batch)]
    return take(batch, torch.nonzero(~own).flatten()), int(found.sum())
