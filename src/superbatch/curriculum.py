"""When each example is learned, and how often: the chosen sequences of runs, averaged.

The time of a position is its share of the run, ``(position + 1/2) / length``, in (0, 1).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64


def policy(
    chosen: Sequence[Int64[np.ndarray, " _"]], examples: int
) -> Int64[np.ndarray, " examples"]:
    """``examples`` ids in the order in which the runs that chose ``chosen`` would learn them.

    An example is expected as often as its share of each run, averaged over the runs, says. It comes
    as often as that, rounded up or down: along the examples by their mean time, the sum is rounded
    and not each summand, so that every stretch of time keeps its share and the total is exact.

    One that was chosen ``m`` times and comes ``c <= m`` times has its times cut into ``c`` runs of
    (almost) equal length and comes at the mean of each. Where it comes more often than it was
    chosen, copies lie around the time as far apart as uniform training on these examples would
    show them. For one run and its own length this is the sequence itself. Ties go by id.
    """
    lengths = [len(ids) for ids in chosen]
    times = np.concatenate([(np.arange(length) + 0.5) / length for length in lengths])
    ids = np.concatenate(chosen)
    by_id = np.lexsort((times, ids))
    ids, times = ids[by_id], times[by_id]
    distinct, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    mean_times = np.add.reduceat(times, starts) / counts
    copies = _copies([_counts(one, distinct) for one in chosen], mean_times, examples)
    means, repeats, owners = _groups(times, counts, copies)
    spread = _spread(means, repeats, gap=len(distinct) / examples)
    ascending: Int64[np.ndarray, " examples"] = np.repeat(distinct[owners], repeats)
    return ascending[np.argsort(spread, kind="stable")]


def _counts(
    ids: Int64[np.ndarray, " n"], distinct: Int64[np.ndarray, " d"]
) -> Int64[np.ndarray, " d"]:
    return np.bincount(np.searchsorted(distinct, ids), minlength=len(distinct))


def _copies(
    counts: Sequence[Int64[np.ndarray, " d"]], times: Float64[np.ndarray, " d"], examples: int
) -> Int64[np.ndarray, " d"]:
    """How often each comes, by systematic rounding in the order of ``times``."""
    order = np.argsort(times, kind="stable")
    expected = np.zeros(len(order))
    for one in counts:  # whole numbers are summed, so that nothing builds up
        expected += np.cumsum(one[order]) * (examples / (len(counts) * one.sum()))
    whole = np.floor(expected + 0.5).astype(np.int64)
    copies = np.empty_like(whole)
    copies[order] = np.diff(whole, prepend=0)
    return copies


def _groups(
    times: Float64[np.ndarray, " n"],
    counts: Int64[np.ndarray, " d"],
    copies: Int64[np.ndarray, " d"],
) -> tuple[Float64[np.ndarray, " g"], Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
    """The mean time of each group of times, how many copies it stands for, and whose it is."""
    kept = copies > 0
    times = times[np.repeat(kept, counts)]
    owners = np.flatnonzero(kept)
    counts, copies = counts[kept], copies[kept]
    groups = np.minimum(counts, copies)
    place = np.arange(groups.sum()) - np.repeat(np.cumsum(groups) - groups, groups)
    of = np.repeat(np.arange(len(groups)), groups)
    begin = (place * counts[of]) // groups[of]
    size = ((place + 1) * counts[of]) // groups[of] - begin
    means = np.add.reduceat(times, (np.cumsum(counts) - counts)[of] + begin) / size
    repeats = ((place + 1) * copies[of]) // groups[of] - (place * copies[of]) // groups[of]
    return means, repeats, owners[of]


def _spread(
    means: Float64[np.ndarray, " g"], repeats: Int64[np.ndarray, " g"], *, gap: float
) -> Float64[np.ndarray, " examples"]:
    """The time of each copy: around its group's mean, ``gap`` apart or as [0, 1] has room for."""
    gaps = np.minimum(gap, 1 / repeats)
    half = (repeats - 1) / 2 * gaps
    first = np.where(repeats == 1, means, means.clip(half, 1 - half) - half)
    place = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    times: Float64[np.ndarray, " examples"] = np.repeat(first, repeats)
    times += place * np.repeat(gaps, repeats)
    return times
