"""Classes: which are learned better or worse than by the baseline, and which are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from superbatch.report.read import Column, Run
from superbatch.report.selection import Choices, Ids
from superbatch.report.speedup import Comparison


@dataclass(frozen=True)
class ClassChange:
    """One class: accuracy of the baseline and of the recipe, means over seeds, in [0, 1]."""

    name: str
    baseline: float
    accuracy: float

    @property
    def change(self) -> float:
        """Accuracy won, negative where lost."""
        return self.accuracy - self.baseline


@dataclass(frozen=True)
class ClassChanges:
    """Classes, most lost first; ``left_out`` more had no example to be evaluated by."""

    changes: Sequence[ClassChange]
    left_out: int


def class_changes(comparison: Comparison, recipe: str) -> ClassChanges:
    """Every class that was evaluated, of runs that have finished and have a finished baseline."""
    pairs = [
        (result.run.summary, result.baseline.summary)
        for result in comparison.results
        if result.recipe == recipe and result.baseline is not None
    ]
    accuracies = [
        (_per_class(run), _per_class(baseline), _class_names(run))
        for run, baseline in pairs
        if run is not None and baseline is not None
    ]
    accuracies = [item for item in accuracies if len(item[0]) and len(item[0]) == len(item[1])]
    if not accuracies or len({len(item[0]) for item in accuracies}) > 1:
        return ClassChanges((), 0)
    own = np.mean([item[0] for item in accuracies], axis=0)
    base = np.mean([item[1] for item in accuracies], axis=0)
    rows = map(ClassChange, accuracies[0][2], base.tolist(), own.tolist())
    known = [row for row in rows if not np.isnan(row.change)]  # NaN has no place in an order
    return ClassChanges(sorted(known, key=lambda row: row.change), len(own) - len(known))


def _per_class(summary: Mapping[str, Any]) -> Column:
    values = (summary.get("val") or {}).get("per_class") or []
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _class_names(summary: Mapping[str, Any]) -> list[str]:
    val = summary.get("val") or {}
    count = len(val.get("per_class") or [])
    names = [str(name) for name in val.get("class_names") or []]
    return names if len(names) == count else [f"class {index}" for index in range(count)]


@dataclass(frozen=True)
class Labels:
    """The label of every example that the data has; ``ids`` ascending."""

    ids: Ids
    labels: Ids
    class_names: Sequence[str]

    def of(self, ids: Ids) -> tuple[Ids, Ids]:
        """The labels of ``ids``, and which rows of ``ids`` the data knows."""
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        known = np.flatnonzero(self.ids[at] == ids)
        return self.labels[at[known]], known


@dataclass(frozen=True)
class ClassShare:
    """One class's share of what was scored and of what was chosen."""

    name: str
    scored: float
    chosen: float

    @property
    def ratio(self) -> float:
        """How much more often it was chosen than it came: 1 is as often."""
        return self.chosen / self.scored if self.scored else 0.0


def class_shares(choices: Choices, labels: Labels) -> list[ClassShare]:
    """Every class that was scored, most favoured first."""
    label, known = labels.of(choices.ids)
    size = len(labels.class_names)
    scored = np.bincount(label, choices.seen[known], minlength=size)
    chosen = np.bincount(label, choices.chosen[known], minlength=size)
    rows = zip(labels.class_names, _shares(scored), _shares(chosen), strict=True)
    shares = [ClassShare(*row) for row in rows if row[1] > 0]
    return sorted(shares, key=lambda row: row.ratio, reverse=True)


def class_balance(run: Run, labels: Labels, points: int = 20) -> tuple[list[float], list[float]]:
    """Over time, how many equally frequent classes would be as mixed as the chosen ones.

    The exponential of the entropy of the chosen labels, in [1, classes], and the last step of
    each of ``points`` spans of the run.
    """
    size = len(labels.class_names)
    counts = np.zeros((points, size))
    width = max(1.0, max(run.horizon, run.last_step) / points)
    for path in sorted((run.folder / "selection").glob("[!.]*.parquet")):
        table = pq.read_table(path, columns=["step", "id", "chosen"])
        chosen = np.asarray(table["chosen"].to_numpy(), dtype=bool)
        label, known = labels.of(table["id"].to_numpy()[chosen])
        step = table["step"].to_numpy()[chosen][known]
        span = np.clip(((step - 1) / width).astype(np.int64), 0, points - 1)
        counts += np.bincount(span * size + label, minlength=points * size).reshape(points, size)
    filled = np.flatnonzero(counts.sum(axis=1))
    share = counts[filled] / counts[filled].sum(axis=1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    return ((filled + 1) * width).tolist(), np.exp(entropy).tolist()


def _shares(counts: NDArray[Any]) -> list[float]:
    return [float(count) for count in counts / max(counts.sum(), 1)]
