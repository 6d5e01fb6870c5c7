"""Parts of a data set that no example is in two of."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from superbatch.errors import ConfigError
from superbatch.sources.permutation import HALF, permuted, random_bits


@dataclass(frozen=True)
class Splits:
    """Row numbers in ascending order; every row is in exactly one part."""

    pool: Int64[np.ndarray, " pool"]
    """What is trained on."""
    holdout: Int64[np.ndarray, " holdout"]
    """What only a held-out reference is trained on."""
    evaluation: Int64[np.ndarray, " evaluation"]
    """What nothing is trained on."""


def in_first_half(ids: Int64[np.ndarray, " n"], *, seed: int) -> Bool[np.ndarray, " n"]:
    """Which examples are in the first of two random halves, decided by each one's id alone."""
    return (random_bits(seed, ids, HALF) >> np.uint64(63)).astype(bool)


def split_rows(
    count: int, *, evaluation_fraction: float, holdout_fraction: float, seed: int
) -> Splits:
    """Split ``range(count)`` at random: first the evaluation rows, then the holdout of the rest.

    Fractions lie in [0, 1); that of the holdout is a share of what evaluation leaves, so the
    evaluation rows stay the same whatever the holdout is. Raises ``ConfigError`` where the pool,
    or a part whose fraction is over 0, would be empty.
    """
    for name, fraction in (("evaluation", evaluation_fraction), ("holdout", holdout_fraction)):
        if not 0 <= fraction < 1:
            raise ConfigError(f"{name}_fraction is {fraction}; it must be in [0, 1)")
    evaluation = round(count * evaluation_fraction)
    holdout = round((count - evaluation) * holdout_fraction)
    for name, size, wanted in (
        ("the evaluation part", evaluation, evaluation_fraction > 0),
        ("the holdout", holdout, holdout_fraction > 0),
        ("the pool to train on", count - evaluation - holdout, True),
    ):
        if wanted and size <= 0:
            raise ConfigError(
                f"{name} would be empty: {count} examples with evaluation_fraction "
                f"{evaluation_fraction} and holdout_fraction {holdout_fraction}; "
                "change the fractions or take more data"
            )
    order = permuted(np.arange(count, dtype=np.int64), length=count, seed=seed)
    parts = np.split(order, [evaluation, evaluation + holdout])
    assert np.bincount(np.concatenate(parts), minlength=count).tolist() == [1] * count
    in_evaluation, in_holdout, in_pool = (np.sort(part) for part in parts)
    return Splits(in_pool, in_holdout, in_evaluation)
