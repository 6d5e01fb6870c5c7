"""Curves for drawing: over every axis, of every seed and as mean and spread, raw and smoothed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superbatch.report.read import Column, Run
from superbatch.report.speedup import smoothed


AXES = {
    "step": "learner updates",
    "flops/full": "FLOPs, full accounting",
    "flops/paper": "FLOPs, the paper's accounting",
    "seconds": "seconds",
    "examples_learned": "examples learned",
    "examples_seen": "examples seen",
    "examples_unique": "unique examples learned",
}
"""The axes a curve can be drawn over, by the name they are logged under."""

POINTS = 200
"""The most points of one curve that are kept."""


@dataclass(frozen=True)
class Line:
    """One quantity over every axis, with its deviation over seeds."""

    x: Mapping[str, Column]
    raw: Column
    smooth: Column
    raw_std: Column
    smooth_std: Column


@dataclass(frozen=True)
class RecipeCurve:
    """One recipe's quantity: its mean over seeds at equal steps, and every seed by itself.

    The mean covers the steps that every seed logged, its axes averaged too; the deviations have
    n - 1 in the denominator and are 0 for one seed.
    """

    mean: Line
    seeds: Mapping[int, Line]


def metric_names(runs: Sequence[Run], first: str) -> list[str]:
    """What can be drawn: ``first``, then the evaluations, then the losses."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    evaluations = [name for name in names if name.startswith("val/")]
    losses = [name for name in names if name.endswith("/loss") and name not in evaluations]
    return [name for name in dict.fromkeys([first, *evaluations, *losses]) if name in names]


def smoothing_window(length: int, smooth: int) -> int:
    """Values in the running median of the smoothed view: as asked for, else a 20th of them."""
    return smooth if smooth > 1 else max(3, length // 20)


def recipe_curve(runs: Sequence[Run], metric: str, smooth: int) -> RecipeCurve | None:
    """The curve of one recipe's runs, its seeds; None where none of them logged ``metric``."""
    logged = [run for run in runs if len(run.curve(metric)[1])]
    if not logged:
        return None
    lines = [_line(run, metric, smooth) for run in logged]
    seeds = {run.seed: _thinned(line) for run, line in zip(logged, lines, strict=True)}
    return RecipeCurve(_thinned(_mean(lines)), seeds)


def _line(run: Run, metric: str, smooth: int) -> Line:
    step, raw = run.curve(metric)
    at = np.isin(run.metrics["step"], step)
    x = {axis: run.metrics[axis][at] for axis in AXES if axis in run.metrics}
    zero = np.zeros_like(raw)
    return Line(x, raw, smoothed(raw, smoothing_window(len(raw), smooth)), zero, zero)


def _mean(lines: Sequence[Line]) -> Line:
    steps = lines[0].x["step"]
    for line in lines[1:]:
        steps = np.intersect1d(steps, line.x["step"])
    rows = [np.isin(line.x["step"], steps) for line in lines]
    axes = [axis for axis in AXES if all(axis in line.x for line in lines)]

    def over_seeds(columns: Sequence[Column]) -> tuple[Column, Column]:
        values = np.stack([column[row] for column, row in zip(columns, rows, strict=True)])
        std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(steps))
        return values.mean(axis=0), std

    raw, raw_std = over_seeds([line.raw for line in lines])
    smooth, smooth_std = over_seeds([line.smooth for line in lines])
    x = {axis: over_seeds([line.x[axis] for line in lines])[0] for axis in axes}
    return Line(x, raw, smooth, raw_std, smooth_std)


def _thinned(line: Line) -> Line:
    if len(line.raw) <= POINTS:
        return line
    kept = np.linspace(0, len(line.raw) - 1, POINTS).round().astype(np.int64)
    return Line(
        {axis: column[kept] for axis, column in line.x.items()},
        *(column[kept] for column in (line.raw, line.smooth, line.raw_std, line.smooth_std)),
    )
