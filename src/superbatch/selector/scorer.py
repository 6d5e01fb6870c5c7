"""Scorer: from the user's super-batch to its scores, by the models that the criterion weighs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from superbatch.criterion import Criterion, as_is
from superbatch.distributed import counts, gather_rows, world
from superbatch.errors import ConfigError
from superbatch.selector.lens import Lens, Precision
from superbatch.tables import LossTable
from superbatch.types import LossSource, Role


Seer = nn.Module | LossTable
"""What tells a loss: a model, or a table in the place of one."""


@dataclass(frozen=True)
class Scores:
    """Scores of a super-batch, the losses behind them by role, and the ids where it has any."""

    scores: Float[Tensor, " B"]
    losses: Mapping[Role, Float[Tensor, " B"]]
    ids: Int64[Tensor, " B"] | None


@dataclass(frozen=True)
class Scorer:
    """Scores by ``criterion`` of what ``lens`` shows of ``models``.

    ``together``: sums are shaped into scores over the rows of all ranks, not of each by itself.
    """

    criterion: Criterion
    lens: Lens
    models: Mapping[Role, Seer]
    how: Precision
    together: bool = False

    def __call__(self, batch: Any, count: int, ids: Int64[Tensor, " B"] | None) -> Scores:
        """Scores of the ``count`` rows of ``batch``, which have ``ids`` if known already."""
        seen = self.lens.seen(batch)
        ids = self.lens.ids(seen) if ids is None else ids
        known = torch.arange(count) if ids is None else ids
        losses = {role: self.losses(role, seen, known) for role in sorted(self.criterion.roles)}
        device = next(iter(losses.values())).device
        sources = {role: _given(losses[role]) for role in losses}
        sums = self._sums.score({"id": known.to(device)}, sources)
        return Scores(self._shaped(sums), losses, ids)

    def losses(self, role: Role, seen: Any, ids: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What ``role`` says of the rows, fp32."""
        model = self.models[role]
        if isinstance(model, LossTable):
            return model({"id": ids} if model.missing is None else {**seen, "id": ids})
        return self.lens.measured(bare(model), seen, ids, self.how)

    @cached_property
    def _sums(self) -> Criterion:
        return replace(self.criterion, shape=as_is)

    def _shaped(self, sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        if not self.together:
            return self.criterion.shape(sums)
        rank, _ = world()
        first = sum(counts(len(sums))[:rank])
        return self.criterion.shape(gather_rows(sums))[first : first + len(sums)]


def weighed(
    criterion: Criterion,
    *,
    learner: nn.Module | None,
    online: nn.Module | None,
    reference: Seer | None,
) -> Mapping[Role, Seer]:
    """The models that ``criterion`` weighs. ``ConfigError`` where one was not given."""
    given: dict[Role, Seer | None] = {
        "learner": learner,
        "online": online,
        "reference": reference,
    }
    found = {}
    for role in sorted(criterion.roles):
        model = given[role]
        if model is None:
            raise ConfigError(
                f"this criterion weighs the losses of the {role} model and none was given; give "
                f"Selector({role}=...), or take another criterion"
            )
        found[role] = model
    return found


def bare(model: nn.Module) -> nn.Module:
    """``model`` without the wrapper that would send something when it runs."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner


def _given(losses: Tensor) -> LossSource:
    return lambda batch: losses
