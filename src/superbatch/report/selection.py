"""What was chosen, example by example: the selection files of a run, added up."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from superbatch.errors import RunError
from superbatch.report.read import Column, Run


Ids = NDArray[np.int64]

CHUNK = 2_000_000
"""Rows held in memory at once."""

NEVER = np.iinfo(np.int64).max
"""The step of what did not happen."""


@dataclass(frozen=True)
class Choices:
    """One row an example id, ids ascending.

    ``seen`` times scored, ``chosen`` times learned, first at step ``first_chosen`` (`NEVER` where
    never); ``last_step`` is the last one written. ``means`` over the times it was scored:
    ``"score"``, ``"wish"`` (the score in standard deviations of its own step's scores, so that
    early and late steps compare) and ``"loss/<role>"``, or what else was measured. NaN where there
    was no finite value.
    """

    ids: Ids
    seen: Ids
    chosen: Ids
    first_chosen: Ids
    last_step: int
    means: Mapping[str, Column]

    def unique_learned(self, steps: Column) -> Column:
        """How many different examples were learned up to each of ``steps``; NaN beyond the last."""
        first = np.sort(self.first_chosen[self.chosen > 0])
        count = np.searchsorted(first, steps, side="right").astype(np.float64)
        return np.where(steps <= self.last_step, count, np.nan)

    def histogram(self, bins: int = 12) -> list[tuple[str, int]]:
        """How many examples were chosen never, and how many how often, in at most ``bins`` bins."""
        width = max(1, -(-int(self.chosen.max(initial=0)) // bins))
        counts = np.bincount(-(-self.chosen // width), minlength=2)
        names = ["0"]
        for last in range(width, width * len(counts), width):
            names.append(str(last) if width == 1 else f"{last - width + 1}-{last}")
        return list(zip(names, counts.tolist(), strict=True))


@dataclass(frozen=True)
class _Sums:
    ids: Ids
    first_chosen: Ids
    sums: Mapping[str, Column]


def read_choices(run: Run) -> Choices | None:
    """The choices of ``run``, None where it wrote none.

    Raises:
        RunError: a part is broken, or has no id.
    """
    total: _Sums | None = None
    last_step = 0
    for table in _tables(run.folder / "selection"):
        last_step = max(last_step, int(_column(table, "step").max(initial=0)))
        part = _add(_rows(table))
        total = part if total is None else _add(_joined(total, part))
    if total is None:
        return None
    sums = total.sums
    names = [name for name in sums if f"count {name}" in sums]
    means = {name: _ratio(sums[name], sums[f"count {name}"]) for name in names}
    seen, chosen = (sums[name].astype(np.int64) for name in ("seen", "chosen"))
    return Choices(total.ids, seen, chosen, total.first_chosen, last_step, means)


def _ratio(sums: Column, counts: Column) -> Column:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _tables(folder: Path) -> Iterator[pa.Table]:
    """The parts in order, as tables of about ``CHUNK`` rows."""
    waiting: list[pa.Table] = []
    for path in sorted(folder.glob("*.parquet")):
        if path.name.startswith("."):
            continue  # half written by a run that is still going on, or was killed
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunError(f"{path} is broken ({error}); remove it to report the rest") from error
        if missing := {"step", "id", "score", "chosen"} - set(table.column_names):
            raise RunError(f"{path} has no column {sorted(missing)[0]!r}; remove it or restore it")
        waiting.append(table)
        if sum(map(len, waiting)) >= CHUNK:
            yield pa.concat_tables(waiting, promote_options="default")
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="default")


def _rows(table: pa.Table) -> _Sums:
    roles = [name for name in table.column_names if "/" in name]
    losses = {name: _column(table, name) for name in roles}
    chosen = np.asarray(table["chosen"].to_numpy(), dtype=bool)
    # A memory bank gives examples that were scored at an earlier step: chosen here, without losses.
    older = chosen & np.all([np.isnan(loss) for loss in losses.values()], axis=0) & bool(roles)
    score = np.where(older, np.nan, _column(table, "score"))
    values = {"score": score, "wish": _standardised(score, _column(table, "step"))} | losses
    sums = {"seen": (~older).astype(np.float64), "chosen": chosen.astype(np.float64)}
    for name, column in values.items():
        finite = np.isfinite(column)
        sums |= {name: np.where(finite, column, 0.0), f"count {name}": finite.astype(np.float64)}
    first_chosen = np.where(chosen, table["step"].to_numpy().astype(np.int64), NEVER)
    return _Sums(table["id"].to_numpy().astype(np.int64), first_chosen, sums)


def _column(table: pa.Table, name: str) -> Column:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _standardised(score: Column, step: Column) -> Column:
    """Each score less its step's mean, in its step's standard deviations; 0 where all are equal."""
    finite = np.isfinite(score)
    _, group = np.unique(step, return_inverse=True)
    known = np.where(finite, score, 0.0)
    count = np.maximum(np.bincount(group, finite), 1)
    mean = np.bincount(group, known) / count
    centred = np.where(finite, score - mean[group], 0.0)
    std = np.sqrt(np.bincount(group, centred**2) / count)
    wish = np.divide(centred, std[group], out=np.zeros(len(score)), where=std[group] > 1e-12)
    return np.where(finite, wish, np.nan)


def _add(rows: _Sums) -> _Sums:
    ids, group = np.unique(rows.ids, return_inverse=True)
    sums = {
        name: np.bincount(group, column, minlength=len(ids)).astype(np.float64)
        for name, column in rows.sums.items()
    }
    first_chosen = np.full(len(ids), NEVER)
    np.minimum.at(first_chosen, group, rows.first_chosen)
    return _Sums(ids, first_chosen, sums)


def _joined(first: _Sums, second: _Sums) -> _Sums:
    def column(part: _Sums, name: str) -> Column:
        return part.sums.get(name, np.zeros(len(part.ids)))

    names = dict.fromkeys([*first.sums, *second.sums])
    sums = {name: np.concatenate([column(first, name), column(second, name)]) for name in names}
    first_chosen = np.concatenate([first.first_chosen, second.first_chosen])
    return _Sums(np.concatenate([first.ids, second.ids]), first_chosen, sums)
