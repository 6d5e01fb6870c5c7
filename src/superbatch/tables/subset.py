"""The best examples by a column, or by the difference of two."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from superbatch.errors import ConfigError, DataError


Keep = Literal["low", "high"]
"""Which end of the values is the good one."""


def best(
    values: Float[np.ndarray, " n"], *, fraction: float, keep: Keep
) -> Int64[np.ndarray, " m"]:
    """The places of the best ``round(fraction * n)`` values, ascending.

    Of equal values the earlier are taken. Values that are NaN are never among them. Raises
    ``ConfigError`` for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"--fraction is {fraction} and must be in (0, 1]")
    size = min(round(fraction * len(values)), int(np.count_nonzero(~np.isnan(values))))
    if size == 0:
        return np.zeros(0, dtype=np.int64)
    ordered = -values if keep == "high" else values  # NaN sorts last in both
    limit = np.partition(ordered, size - 1)[size - 1]
    better = np.flatnonzero(ordered < limit)
    equal = np.flatnonzero(ordered == limit)[: size - len(better)]
    return np.sort(np.concatenate([better, equal]))


def within(
    values: Float[np.ndarray, " n"], *, threshold: float, keep: Keep
) -> Int64[np.ndarray, " m"]:
    """The places of the values that are at least as good as ``threshold``, ascending."""
    return np.flatnonzero(values >= threshold if keep == "high" else values <= threshold)


def best_of_each_class(
    values: Float[np.ndarray, " n"],
    classes: Int64[np.ndarray, " n"],
    *,
    fraction: float,
    keep: Keep,
) -> Int64[np.ndarray, " m"]:
    """The same fraction of each class, so that classes keep their shares; places ascending."""
    if len(values) != len(classes):
        raise DataError(f"there are {len(values)} values and {len(classes)} classes for them")
    order = np.argsort(classes, kind="stable")
    bounds = np.flatnonzero(np.diff(classes[order])) + 1
    kept = [
        members[best(values[members], fraction=fraction, keep=keep)]
        for members in np.split(order, bounds)
    ]
    return np.sort(np.concatenate(kept))
