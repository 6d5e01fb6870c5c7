"""What the page's script draws, as plain values for JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from superbatch.report.curves import AXES, Line, metric_names, recipe_curve
from superbatch.report.read import Column, Run
from superbatch.report.scaling import fit_power_law
from superbatch.report.speedup import Comparison


DIAGNOSTICS = {
    "selection/score_std": ("Spread of scores", "standard deviation within a step"),
    "selection/effective_sample_size": ("Effective sample size", "examples, of a super-batch"),
    "selection/kept_gain": ("Kept gain", "score of the chosen over all, in deviations"),
    "selection/staleness": ("Staleness", "steps between scoring and learning"),
    "selection/clean_share": ("Clean labels", "share of the chosen whose label is the truth"),
    "selection/duplicates": ("Duplicates", "pairs of a super-batch that repeat an image or text"),
    "selection/agreement": ("Agreement", "correlation of online and learner losses"),
}
"""Title and unit of what the selection logs; anything else it logs is shown by its name."""

OF_PAIRS = {
    "selection/clean_share": ("Matched pairs", "share of the chosen whose caption is the image's"),
}
"""The same, where examples are images with captions."""


def curves_chart(runs: Mapping[str, Sequence[Run]], comparison: Comparison) -> dict[str, Any]:
    """The main chart: every metric by recipe, over every axis."""
    everything = [run for seeds in runs.values() for run in seeds]
    metrics = metric_names(everything, comparison.metric)
    curves = {metric: _curves(runs, metric, comparison.smooth) for metric in metrics}
    used = [axis for axis in AXES if any(axis in run.metrics for run in everything)]
    return {
        "axes": [{"key": axis, "name": AXES[axis]} for axis in used],
        "metrics": [{"key": metric, "target": _target(metric, comparison)} for metric in metrics],
        "curves": curves,
    }


def diagnostics_charts(runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """One small chart for everything that the selection logs over time."""
    logged = dict.fromkeys(
        name
        for seeds in runs.values()
        for run in seeds
        for name in run.metrics
        if name.startswith("selection/")
    )
    ordered = [name for name in DIAGNOSTICS if name in logged]
    ordered += [name for name in logged if name not in DIAGNOSTICS]
    pairs = any(r.config.get("task") == "image_text" for seeds in runs.values() for r in seeds)
    known = DIAGNOSTICS | OF_PAIRS if pairs else DIAGNOSTICS
    return [_diagnostic(name, runs, known) for name in ordered]


def line_chart(title: str, unit: str, lines: Sequence[tuple[int, Any, Any]]) -> dict[str, Any]:
    """A small chart of lines, each the recipe's number, its x and its y."""
    drawn = [{"recipe": recipe, "x": numbers(x), "y": numbers(y)} for recipe, x, y in lines]
    return {"title": title, "unit": unit, "lines": drawn}


def scaling_chart(comparison: Comparison) -> dict[str, Any] | None:
    """Best value over budgets with the fitted law; None where no recipe has three budgets."""
    labels = list(dict.fromkeys(result.recipe for result in comparison.results))
    series = []
    for recipe in dict.fromkeys(result.run.recipe for result in comparison.results):
        own = [result for result in comparison.results if result.run.recipe == recipe]
        points = [(result.run.last_step, result.best) for result in own if result.best is not None]
        x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
        law = fit_power_law(x, y)
        if law is None:
            continue
        grid = np.geomspace(x.min(), 2 * x.max(), 60)
        series.append(
            {
                "recipe": labels.index(own[0].recipe),
                "name": recipe,
                "x": numbers(x),
                "y": numbers(y),
                "fit": {"x": numbers(grid), "y": numbers(law.at(grid))},
                "offset": law.offset.to_json(),
                "exponent": law.exponent.to_json(),
            }
        )
    return {"metric": comparison.metric, "series": series} if series else None


def numbers(values: Column | Sequence[float]) -> list[float | None]:
    """Six digits of every value, None for what is not finite."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _curves(runs: Mapping[str, Sequence[Run]], metric: str, smooth: int) -> list[dict[str, Any]]:
    curves = []
    for index, seeds in enumerate(runs.values()):
        curve = recipe_curve(seeds, metric, smooth)
        if curve is not None:
            own = [{"seed": seed, **_line(line)} for seed, line in curve.seeds.items()]
            curves.append({"recipe": index, "mean": _line(curve.mean), "seeds": own})
    return curves


def _line(line: Line) -> dict[str, Any]:
    return {
        "x": {axis: numbers(column) for axis, column in line.x.items()},
        "raw": numbers(line.raw),
        "smooth": numbers(line.smooth),
        "rawStd": numbers(line.raw_std),
        "smoothStd": numbers(line.smooth_std),
    }


def _target(metric: str, comparison: Comparison) -> float | None:
    """The baseline's best, the mean over its seeds; only of the metric that is compared."""
    bests = [r.best for r in comparison.results if r.is_baseline and r.best is not None]
    if metric != comparison.metric or not bests:
        return None
    return float(np.mean(bests))


def _diagnostic(
    name: str, runs: Mapping[str, Sequence[Run]], known: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    title, unit = known.get(name, (name.removeprefix("selection/").replace("_", " "), ""))
    lines = []
    for index, seeds in enumerate(runs.values()):
        curve = recipe_curve(seeds, name, 1)
        if curve is not None:
            lines.append((index, curve.mean.x["step"], curve.mean.smooth))
    return line_chart(title, unit, lines)
