"""Scaling curves: a power law with an offset through what several budgets reached."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import stdtrit

from superbatch.report.read import Column
from superbatch.report.statistics import Interval


EXPONENTS = (1e-3, 10.0)
"""The lowest and the highest that are tried."""


@dataclass(frozen=True)
class PowerLaw:
    """``y = offset + factor * (x / scale) ** -exponent``, with 95 % intervals of all three.

    ``scale`` is the geometric mean of the budgets, so that ``factor`` is a difference in ``y``.
    The intervals come from the fit's covariance and Student's t with ``points - 3`` degrees of
    freedom. They have no ends where there are three points, as three parameters fit any three, and
    where the covariance is singular.
    """

    offset: Interval
    factor: Interval
    exponent: Interval
    scale: float

    def at(self, x: Column) -> Column:
        """The law's value at ``x``."""
        parameters = (self.offset.mean, self.factor.mean, self.exponent.mean)
        values = [value for value in parameters if value is not None]
        return np.asarray(_law(x / self.scale, *values), dtype=np.float64)


def fit_power_law(x: Column, y: Column) -> PowerLaw | None:
    """The least-squares law through budgets ``x`` > 0 and what they reached, ``y``.

    A rising ``y`` has a negative factor, and the offset is what it tends to. None below three
    different budgets, and where they determine no law: none fits better than any other, the best
    would have an exponent beyond what is tried (as where ``y`` grows with the logarithm of ``x``
    and tends to nothing), or ``y`` does not vary with ``x``.
    """
    if len(np.unique(x)) < 3:
        return None
    scale = float(np.exp(np.log(x).mean()))
    fit = _best_fit(x / scale, y)
    if fit is None:
        return None
    parameters, covariance = fit
    if not _is_determined(x / scale, y, parameters):
        return None
    freedom = len(y) - 3
    if not np.isfinite(covariance).all() or np.linalg.matrix_rank(covariance) < 3:
        freedom = 0  # it tells of some directions only
    offset, factor, exponent = (
        _interval(float(mean), float(variance), freedom)
        for mean, variance in zip(parameters, np.diag(covariance), strict=True)
    )
    return PowerLaw(offset, factor, exponent, scale)


def _law(x: Column, offset: float, factor: float, exponent: float) -> Column:
    return np.asarray(offset + factor * x**-exponent, dtype=np.float64)


def _is_determined(x: Column, y: Column, parameters: Column) -> bool:
    lowest, highest = EXPONENTS
    varies = float(np.ptp(_law(x, *parameters))) > 1e-9 * float(np.abs(y).max())
    return varies and 1.01 * lowest < float(parameters[2]) < 0.99 * highest


def _best_fit(x: Column, y: Column) -> tuple[Column, Column] | None:
    """The best of fits that start at several exponents: the error has more than one valley."""
    fits = [fit for exponent in (0.2, 0.5, 1.0, 2.0) if (fit := _fit(x, y, exponent))]
    return min(fits, key=lambda fit: _error(x, y, fit[0]), default=None)


def _error(x: Column, y: Column, parameters: Column) -> float:
    return float(((_law(x, *parameters) - y) ** 2).sum())


def _fit(x: Column, y: Column, exponent: float) -> tuple[Column, Column] | None:
    factor, offset = np.polyfit(x**-exponent, y, 1)
    lowest, highest = EXPONENTS
    bounds = ([-np.inf, -np.inf, lowest], [np.inf, np.inf, highest])
    with warnings.catch_warnings():
        # Three points leave no error to estimate a covariance from; the interval then has no ends.
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            start = (offset, factor, exponent)
            parameters, covariance = curve_fit(_law, x, y, start, bounds=bounds, max_nfev=5000)
        except RuntimeError:
            return None
    return parameters, covariance


def _interval(mean: float, variance: float, freedom: int) -> Interval:
    if freedom < 1 or not np.isfinite(variance):
        return Interval(mean, None, None, None)
    std = float(np.sqrt(variance))
    half = float(stdtrit(freedom, 0.975)) * std
    return Interval(mean, std, mean - half, mean + half)
