"""Choice: which rows of one super-batch are kept, and how likely that was."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Generator, Tensor

from superbatch.errors import ConfigError
from superbatch.selection import (
    effective_sample_size,
    importance_weights,
    kept_gain,
    sample_indices,
    sample_weighted,
)
from superbatch.selector.pytree import take_rows
from superbatch.selector.schedule import Turn
from superbatch.types import Role


@dataclass(frozen=True)
class Selection:
    """The kept rows of a super-batch, and why they were kept.

    ``index`` says where they stood, ascending. ``scores`` and the ``losses`` behind them are those
    of the whole super-batch; none and empty where nothing was scored. ``probabilities`` says how
    likely each kept row was to be kept, given the score that just failed to be: 1 for all at
    temperature 0. ``weights`` (none at importance exponent 0) make means over the kept rows
    estimate means over the super-batch, and are 1 each where scores did not choose; ``ids`` are
    none where the batch has none.
    """

    batch: Any
    index: Int[Tensor, " b"]
    probabilities: Float[Tensor, " b"]
    ids: Int64[Tensor, " b"] | None = None
    scores: Float[Tensor, " B"] | None = None
    losses: Mapping[Role, Float[Tensor, " B"]] | None = None
    weights: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Choice:
    """Rows by their place, and what is known of how they came to be chosen."""

    index: Int[Tensor, " b"]
    probabilities: Float[Tensor, " b"]
    weights: Float[Tensor, " b"] | None = None


def all_kept(super_batch: Any, count: int, ids: Int64[Tensor, " B"] | None) -> Selection:
    """All ``count`` rows of ``super_batch``, for certain: the very same object."""
    return Selection(super_batch, torch.arange(count), torch.ones(count), ids)


def kept(super_batch: Any, choice: Choice, ids: Int64[Tensor, " B"] | None) -> Selection:
    """The rows of ``super_batch`` that were chosen."""
    index = choice.index
    kept_ids = None if ids is None else ids[index.to(ids.device)]
    batch = take_rows(super_batch, index)
    return Selection(batch, index, choice.probabilities, kept_ids, weights=choice.weights)


def weighted_alike(selection: Selection, device: torch.device | None) -> Selection:
    """``selection`` with weights of 1: all rows, or uniform ones, stand for the super-batch."""
    return replace(selection, weights=torch.ones(len(selection.index), device=device))


def uniform_rows(count: int, size: int, generator: Generator) -> Choice:
    """``size`` of ``count`` rows, each as likely as any other."""
    index = sample_indices(torch.zeros(count), size, generator=generator)
    return Choice(index, torch.full((size,), size / count))


def scored_rows(
    scores: Float[Tensor, " B"],
    size: int,
    temperature: float,
    exponent: float,
    generator: Generator,
) -> Choice:
    """``size`` rows drawn by ``scores``. Errors are those of ``sample_weighted``."""
    if temperature == 0:
        index = sample_indices(scores, size, temperature=0.0)
        return Choice(index, torch.ones(size, device=scores.device))
    index, log_q = sample_weighted(scores, size, temperature=temperature, generator=generator)
    weights = None
    if exponent:
        finite = int(torch.isfinite(scores).sum())
        weights = importance_weights(log_q, finite, exponent=exponent)
    return Choice(index, log_q.exp(), weights)


@dataclass(frozen=True)
class Last:
    """What is remembered of the last choice: no batch, which would keep its memory."""

    turn: Turn
    index: Int[Tensor, " b"]
    scores: Float[Tensor, " B"] | None

    def metrics(self) -> dict[str, float | int]:
        """Plain numbers; reading them waits for the device.

        ``filter_ratio`` and ``temperature``; where scores chose, ``kept_gain`` and
        ``effective_sample_size`` of `superbatch.selection`, ``score_std``, and ``not_finite``, the
        number of scores that are never chosen.
        """
        settings: dict[str, float | int] = {
            "filter_ratio": self.turn.filter_ratio,
            "temperature": self.turn.temperature,
        }
        if self.scores is None:
            return settings
        finite = self.scores[torch.isfinite(self.scores)]
        flat = effective_sample_size(self.scores, temperature=self.turn.temperature)
        return settings | {
            "kept_gain": float(kept_gain(self.scores, self.index)),
            "effective_sample_size": float(flat),
            "score_std": float(finite.std(correction=0)),
            "not_finite": len(self.scores) - len(finite),
        }


def kept_size(count: int, filter_ratio: float) -> int:
    """How many of ``count`` rows are kept: the nearest whole number, at least 1."""
    return max(1, int(count * (1 - filter_ratio) + 0.5))


def check_kept(count: int, filter_ratio: float) -> None:
    """Refuse a ratio that keeps nothing of ``count`` rows, or scores them only to keep them all."""
    wanted = count * (1 - filter_ratio)
    if wanted + 0.5 < 1:
        raise ConfigError(
            f"filter_ratio {filter_ratio:g} keeps nothing of a super-batch of {count}; give larger "
            f"super-batches, or at most {_floor((count - 1) / count)} to keep one row"
        )
    if filter_ratio > 0 and kept_size(count, filter_ratio) == count:
        raise ConfigError(
            f"filter_ratio {filter_ratio:g} keeps all of a super-batch of {count}, which then is "
            "scored in vain; give 0 to keep all without scoring, or larger super-batches"
        )


def _floor(share: float) -> float:
    return int(share * 1000) / 1000
