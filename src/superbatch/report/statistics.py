"""Numbers over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1 in the denominator) over seeds.

    The mean is None unless every seed has a value: a mean over only those seeds that reached a
    target would flatter. The deviation is None below two seeds.
    """

    mean: float | None
    std: float | None

    def to_json(self) -> dict[str, float | None]:
        """``{"mean", "std"}``."""
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Interval:
    """The mean of paired differences, and the ends of Student's 95 % confidence interval.

    ``std``, ``low`` and ``high`` are None below two pairs, all of them below one.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """``{"mean", "std", "low", "high"}``."""
        return {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and deviation of ``values``, one a seed."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Spread(None, None)
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


def paired_interval(differences: Sequence[float | None]) -> Interval:
    """Student's interval of ``differences``, one a seed; seeds without a pair are left out."""
    known = [value for value in differences if value is not None]
    if not known:
        return Interval(None, None, None, None)
    mean = float(np.mean(known))
    if len(known) == 1:
        return Interval(mean, None, None, None)
    std = float(np.std(known, ddof=1))
    half = float(stdtrit(len(known) - 1, 0.975)) * std / math.sqrt(len(known))
    return Interval(mean, std, mean - half, mean + half)
