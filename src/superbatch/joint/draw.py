"""The draw of a sub-batch in chunks."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from superbatch.errors import ConfigError, Diverged
from superbatch.joint.factors import LogitFactors
from superbatch.joint.scores import JointScores
from superbatch.selection import sample_indices
from superbatch.tasks.contrastive import Loss
from superbatch.types import Role


First = Literal["softmax", "uniform"]
"""How the first chunk is drawn: by what each pair costs alone, or blindly."""


def joint_indices(
    factors: Mapping[Role, LogitFactors],
    weights: Mapping[Role, float],
    count: int,
    *,
    loss: Loss,
    chunks: int,
    first: First = "softmax",
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Int[Tensor, " b"]:
    """``count`` distinct indices, ascending, drawn in ``chunks`` equal parts from ``JointScores``.

    The first part is drawn by what each pair costs alone, or uniformly whatever the temperature.
    Each part is a draw of ``sample_indices``: pairs whose loss is not finite are never chosen, and
    one chunk alone is the independent selection by ``own_losses``.

    Raises ``ConfigError`` for more pairs than there are or chunks that do not divide ``count``,
    ``Diverged`` for more pairs than have a finite loss.
    """
    scores = JointScores(factors, weights, loss=loss)
    wanted = scores.alone()
    check_chunks(count, chunks, len(wanted))
    finite = torch.isfinite(wanted)
    if finite.sum() < count:
        raise Diverged(
            f"{count} pairs are wanted and only {int(finite.sum())} of {len(wanted)} have a finite "
            "loss; a model that scores has diverged, or the data makes its loss infinite"
        )
    draw = partial(sample_indices, size=count // chunks, generator=generator)
    if first == "uniform":  # at any temperature: at 0 the same places would always come first
        parts = [draw(torch.zeros_like(wanted).where(finite, -torch.inf))]
    else:
        parts = [draw(wanted, temperature=temperature)]
    while len(parts) < chunks:
        scores.choose(parts[-1])
        parts.append(draw(scores.given_chosen(), temperature=temperature))
    return torch.cat(parts).sort().values


def check_chunks(count: int, chunks: int, available: int) -> None:
    """Raise ``ConfigError`` unless ``count`` of ``available`` can be drawn in ``chunks`` parts."""
    if not 0 < count <= available:
        raise ConfigError(
            f"cannot choose {count} of {available} pairs; "
            "the sub-batch must have at least one and at most all of the super-batch"
        )
    if chunks < 1:
        raise ConfigError(f"pairs are chosen together in at least one chunk; chunks is {chunks}")
    if count % chunks:
        below = count - count % chunks
        nearest = [size for size in (below, below + chunks) if 0 < size <= available]
        raise ConfigError(
            f"{chunks} chunks do not divide a sub-batch of {count}; the nearest sizes that they "
            f"divide are {' and '.join(map(str, nearest)) or 'above the super-batch'}"
        )
