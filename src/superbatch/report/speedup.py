"""How much sooner a run is as good as the baseline: updates, FLOPs and seconds saved.

A speed-up is a share saved, as in the paper's tables: 0.46 = the baseline's best value after
46 % fewer updates. Negative = later; None = never reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superbatch.errors import RunError
from superbatch.report.labels import baseline_of, baseline_runs, run_labels
from superbatch.report.read import Column, Run
from superbatch.report.statistics import Interval, Spread, paired_interval, spread


RESULT_KEYS = (
    "best",
    "final",
    "updates_to_baseline",
    "learner_speedup",
    "compute_speedup_paper",
    "compute_speedup_full",
    "seconds_speedup",
)
AXES = {
    "learner_speedup": "step",
    "compute_speedup_paper": "flops/paper",
    "compute_speedup_full": "flops/full",
    "seconds_speedup": "seconds",
}


def smoothed(y: Column, window: int) -> Column:
    """The running median of ``y``.

    The window holds ``window`` neighbours and slides inward at both ends, so that one outlier
    never decides wherever it stands. 1 changes nothing.
    """
    window = min(window, len(y))
    if window <= 1:
        return y
    medians = np.median(np.lib.stride_tricks.sliding_window_view(y, window), axis=1)
    before = (window - 1) // 2
    return np.asarray(np.pad(medians, (before, window - 1 - before), mode="edge"), np.float64)


def first_reach(x: Column, y: Column, target: float) -> float | None:
    """Where the curve first reaches ``target``, on the straight line between two evaluations.

    The first evaluation's own ``x`` where it is already there; None where the curve never is.
    """
    reached = np.flatnonzero(y >= target)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    share = (target - y[at - 1]) / (y[at] - y[at - 1])
    return float(x[at - 1] + share * (x[at] - x[at - 1]))


METRICS = {
    "classification": "val/accuracy",
    "image_text": "val/mean_recall",
    "text": "val/accuracy",
}
"""What runs of a task are compared by, unless another metric is named."""


def default_metric(runs: Sequence[Run]) -> str:
    """The first of `METRICS` that a run logged; before any did, that of the first run's task."""
    logged = {name for run in runs for name in run.metrics}
    of_task = METRICS.get(str(runs[0].config.get("task")), METRICS["classification"])
    return next((metric for metric in METRICS.values() if metric in logged), of_task)


def lower_is_better(metric: str) -> bool:
    """Losses go down; every other metric goes up."""
    return metric.endswith("loss")


@dataclass(frozen=True)
class RunResult:
    """One run against its baseline. The baseline's own speed-ups are 0.

    ``best`` is of the smoothed curve, ``final`` the last evaluation as it was.
    ``at_baseline_compute`` is the metric when the run had spent the baseline's total FLOPs (full
    accounting), ``baseline_at_compute`` the baseline's when it had spent this run's: each None
    where the curve ends before. A run read there has not ended its schedule.
    """

    run: Run
    recipe: str
    baseline: Run | None
    best: float | None
    final: float | None
    updates_to_baseline: float | None = None
    learner_speedup: float | None = None
    compute_speedup_paper: float | None = None
    compute_speedup_full: float | None = None
    seconds_speedup: float | None = None
    final_difference: float | None = None
    at_baseline_compute: float | None = None
    baseline_at_compute: float | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether this run is what others are held against."""
        return self.baseline is self.run

    def to_json(self) -> dict[str, Any]:
        """The stable keys of one run."""
        values = {key: getattr(self, key) for key in RESULT_KEYS}
        return {"recipe": self.recipe, "seed": self.run.seed, **values}


@dataclass(frozen=True)
class RecipeSummary:
    """One recipe over its seeds.

    ``compared`` of them have a baseline, over which the speed-ups are, and ``reached`` its best;
    ``pairs`` have one of their own seed and a final value to subtract it from. With
    ``one_baseline`` for several seeds the differences have its draw of chance in common and are no
    pairs: ``final_difference`` has no ends then.
    """

    recipe: str
    is_baseline: bool
    seeds: tuple[int, ...]
    compared: int
    reached: int
    pairs: int
    one_baseline: bool
    spreads: dict[str, Spread]
    final_difference: Interval
    at_baseline_compute: Spread
    baseline_at_compute: Spread

    def to_json(self) -> dict[str, Any]:
        """The stable keys of one recipe; every number is ``{"mean", "std"}``."""
        return {
            "recipe": self.recipe,
            "seeds": list(self.seeds),
            "reached": self.reached,
            **{key: value.to_json() for key, value in self.spreads.items()},
            "final_difference": self.final_difference.to_json(),
            "at_baseline_compute": self.at_baseline_compute.to_json(),
            "baseline_at_compute": self.baseline_at_compute.to_json(),
        }


@dataclass(frozen=True)
class Comparison:
    """Several runs against one baseline recipe (None: there was none to compare with)."""

    metric: str
    baseline: str | None
    smooth: int
    results: tuple[RunResult, ...]
    summaries: tuple[RecipeSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """The stable keys that ``compare --json`` and ``report --json`` print."""
        return {
            "metric": self.metric,
            "baseline": self.baseline,
            "runs": [result.to_json() for result in self.results],
            "summary": [summary.to_json() for summary in self.summaries],
        }


def compare_runs(
    runs: Sequence[Run],
    *,
    metric: str | None = None,
    baseline: str | None = "uniform",
    smooth: int = 1,
) -> Comparison:
    """Every run against the baseline of its own seed.

    The target is the baseline's best value of ``metric``; none: `default_metric`. With ``smooth``
    > 1 all curves are running medians over that many evaluations first, so that an outlier does not
    set it. ``baseline`` is a recipe or a run folder; a single baseline run serves every seed. None
    compares nothing and only lists.

    Raises:
        RunError: no runs; no run logged ``metric``; no baseline, or none of a matching seed.
    """
    if not runs:
        raise RunError("there are no runs to compare; give at least one run folder")
    if smooth < 1:
        raise RunError(f"smooth ({smooth}) counts evaluations; the smallest is 1, no smoothing")
    metric = default_metric(runs) if metric is None else metric
    _check_metric(runs, metric)
    labels = run_labels(runs)
    bases = baseline_runs(runs, baseline) if baseline is not None else []
    results = [
        _result(run, labels[run], baseline_of(run, bases), metric=metric, smooth=smooth)
        for run in runs
    ]
    results.sort(key=lambda result: (not result.is_baseline, result.recipe, result.run.seed))
    recipes = dict.fromkeys(result.recipe for result in results)
    summaries = [_summary([r for r in results if r.recipe == recipe]) for recipe in recipes]
    name = bases[0].recipe if len({labels[base] for base in bases}) > 1 else None
    name = name or (labels[bases[0]] if bases else None)
    return Comparison(metric, name, smooth, tuple(results), tuple(summaries))


def _check_metric(runs: Sequence[Run], metric: str) -> None:
    known = sorted({name for run in runs for name in run.metrics if name.startswith("val/")})
    if known and not any(len(run.curve(metric)[1]) for run in runs):
        raise RunError(f"no run logged {metric!r}; they have {', '.join(known)}")


def _result(run: Run, recipe: str, base: Run | None, *, metric: str, smooth: int) -> RunResult:
    sign = -1.0 if lower_is_better(metric) else 1.0
    _, y = run.curve(metric)
    if not len(y):
        return RunResult(run, recipe, base, None, None)
    best, final = sign * float(smoothed(sign * y, smooth).max()), float(y[-1])
    _, base_y = base.curve(metric) if base is not None else (None, np.empty(0))
    if base is None or not len(base_y):
        return RunResult(run, recipe, base, best, final)
    target = float(smoothed(sign * base_y, smooth).max())
    reach = {axis: _reach(run, axis, metric, target, smooth) for axis in AXES.values()}
    own = {axis: _reach(base, axis, metric, target, smooth) for axis in AXES.values()}
    saved = {key: share_saved(reach[axis], own[axis]) for key, axis in AXES.items()}
    return RunResult(
        run,
        recipe,
        base,
        best,
        final,
        updates_to_baseline=reach["step"],
        **saved,
        final_difference=final - float(base_y[-1]),
        at_baseline_compute=_metric_at(run, metric, base),
        baseline_at_compute=_metric_at(base, metric, run),
    )


def _reach(run: Run, axis: str, metric: str, target: float, smooth: int) -> float | None:
    sign = -1.0 if lower_is_better(metric) else 1.0
    x, y = run.curve(metric, axis)
    return first_reach(x, smoothed(sign * y, smooth), target)


def share_saved(spent: float | None, baseline: float | None) -> float | None:
    """``1 - spent / baseline``; None where either was never reached or the baseline is 0."""
    if spent is None or not baseline:
        return None
    return 1.0 - spent / baseline


def _metric_at(run: Run, metric: str, other: Run) -> float | None:
    """``run``'s metric when it had spent what ``other`` had at its last evaluation."""
    spent, _ = other.curve(metric, "flops/full")
    x, y = run.curve(metric, "flops/full")
    if not len(spent) or not len(x) or not x[0] <= spent[-1] <= x[-1]:
        return None
    return float(np.interp(spent[-1], x, y))


def _summary(results: Sequence[RunResult]) -> RecipeSummary:
    compared = [result for result in results if result.baseline is not None]
    pairs = [r for r in compared if r.baseline is not None and r.baseline.seed == r.run.seed]
    difference = paired_interval([result.final_difference for result in compared])
    if len(pairs) < len(compared):
        difference = Interval(difference.mean, None, None, None)

    def over_seeds(key: str) -> Spread:
        own = key in ("best", "final")
        return spread([getattr(result, key) for result in (results if own else compared)])

    return RecipeSummary(
        recipe=results[0].recipe,
        is_baseline=results[0].is_baseline,
        seeds=tuple(result.run.seed for result in results),
        compared=len(compared),
        reached=sum(result.updates_to_baseline is not None for result in compared),
        pairs=sum(result.final_difference is not None for result in pairs),
        one_baseline=len(compared) > 1 and len(pairs) < len(compared),
        spreads={key: over_seeds(key) for key in RESULT_KEYS},
        final_difference=difference,
        at_baseline_compute=over_seeds("at_baseline_compute"),
        baseline_at_compute=over_seeds("baseline_at_compute"),
    )
