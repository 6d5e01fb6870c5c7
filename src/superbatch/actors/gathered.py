"""Actors of several ranks as one: each scores its part of a super-batch, and all see the whole.

Ids, draws, labels and scores travel between ranks; pixels never do. What a rank is to learn from
and does not hold, it reads again by its draw. One process has all there is, and nothing happens.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from superbatch.actors import Actors, Scored
from superbatch.actors.scorers import given
from superbatch.criterion import Criterion
from superbatch.distributed import counts, gather_batch, share_of_choice, world
from superbatch.errors import DataError
from superbatch.joint import without_factors
from superbatch.learner import Learner
from superbatch.sources.duplicates import duplicates
from superbatch.types import Batch, Role, concat, size, take


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

    Those of the super-batch that it scored last it holds; others are ``read`` again by their draw.
    """

    def __init__(self, read: ReadDraws) -> None:
        self._read = read
        self._held: Batch = {}
        self.read_again = 0
        """How many examples had to be read a second time, so far."""

    def hold(self, batch: Batch) -> None:
        """Keep ``batch``, as it came from its source, in place of the one before."""
        self._held = without_factors(batch)

    def __call__(self, chosen: Batch) -> Batch:
        """This rank's share of ``chosen``, which are the same on every rank; a ``View``, for all.

        Raises ``ConfigError`` where there is not one for each rank, ``DataError`` where another
        rank could read an image and this one cannot.
        """
        index = share_of_choice(torch.arange(size(chosen)))
        if self._held.keys() <= chosen.keys():
            return chosen if len(index) == size(chosen) else take(chosen, index)
        share = take(chosen, index)
        return {**self._with_pixels(share["draw"]), **share}  # with what the bank says of them

    def _with_pixels(self, draws: Int64[Tensor, " n"]) -> Batch:
        ascending, order = self._held["draw"].sort()
        places = torch.searchsorted(ascending, draws).clamp(max=len(ascending) - 1)
        here = ascending[places] == draws
        found = take(self._held, order[places[here]])
        away = draws[~here]
        if len(away):
            again = self._read(away)
            if size(again) < len(away):
                raise DataError(
                    f"{len(away) - size(again)} images that another rank has read cannot be "
                    "decoded here; every host must see the same data"
                )
            self.read_again += len(away)
            found = concat(found, {name: again[name] for name in found})
        # Those that are here stand before the others: back to the order of the draws.
        return take(found, torch.argsort(torch.argsort((~here).int(), stable=True)))


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
            examples = {name: everywhere[name] for name in light}
            losses = {role: everywhere[f"loss/{role}"] for role in scored.losses}
            sources = {role: given(found) for role, found in losses.items()}
            scores = self._criterion.score(examples, sources)
            yield Scored(examples, scores, losses, min(counts(scored.weights_step)))

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """Each rank's own."""
        self._actors.publish(step, trained)

    def close(self) -> None:
        """Each rank's own."""
        self._actors.close()


def without_duplicates(batch: Batch) -> tuple[Batch, int]:
    """This rank's ``batch`` without what came earlier in it or on an earlier rank, and how many
    duplicates all ranks had; for all.
    """
    rank, _ = world()
    found = duplicates(gather_batch(travelling(batch)))
    first = sum(counts(size(batch))[:rank])
    own = found[first : first + size(batch)]
    return take(batch, torch.nonzero(~own).flatten()), int(found.sum())
