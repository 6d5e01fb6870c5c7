"""How likely an example was to be among the drawn."""

import numpy as np

from superbatch.report.read import Column


def inclusion(scores: Column, size: int, *, temperature: float) -> Column:
    """The probability of each of ``scores`` to be among ``size`` drawn without replacement.

    Given the threshold: Gumbel top-k takes what exceeds the largest perturbed score left behind,
    ``q = 1 - exp(-exp(score / temperature - threshold))`` (Kool et al. 2019, "Stochastic Beams and
    Where to Find Them", section 4.1). The threshold itself is not known afterwards; the one here
    lets ``size`` in on average, so that the probabilities sum to ``size``. They are within about
    ``1 / size`` of the exact ones, and equal to them where the scores are flat.

    Temperature 0 takes the highest scores for certain; those that tie for the last places share
    them. 0 for scores that are NaN or infinite, which are never drawn.
    """
    finite = np.isfinite(scores)
    likely = np.zeros(len(scores))
    if finite.sum() <= size:
        likely[finite] = 1.0
    elif temperature == 0:
        likely[finite] = _highest(scores[finite], size)
    else:
        likely[finite] = _drawn(scores[finite] / temperature, size)
    return likely


def _highest(scores: Column, size: int) -> Column:
    last = np.sort(scores)[-size]
    above, level = scores > last, scores == last
    share = (size - above.sum()) / level.sum()
    return np.asarray(np.where(level, share, above), dtype=np.float64)


def _drawn(wanted: Column, size: int) -> Column:
    def likely(threshold: float) -> Column:
        exceeds = np.exp(np.minimum(wanted - threshold, 700.0))  # e to the 709th is infinite
        return np.asarray(-np.expm1(-exceeds))

    # At the highest threshold no example is likelier than size / count; at the lowest, all are in.
    high = float(wanted.max() + np.log(len(wanted) / size))
    low = float(wanted.min() - np.log(40.0 + np.log(len(wanted))))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if likely(middle).sum() > size else (low, middle)
    return likely((low + high) / 2)
