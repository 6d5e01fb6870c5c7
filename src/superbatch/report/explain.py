"""One super-batch: what was asked of each example, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from superbatch.errors import RunError
from superbatch.report.inclusion import inclusion
from superbatch.report.read import Column, Run
from superbatch.report.reasons import Case, Circumstances, reason
from superbatch.report.selection import Ids


@dataclass(frozen=True, eq=False)
class Explained:
    """One example of a super-batch.

    ``rank`` from 1, the highest score of those scored in this step, equal scores sharing the better
    one, and ``probability`` of being drawn are None where they are not known; ``scored_at`` is the
    step in which it was scored, None where that was earlier and the run did not record when.
    ``values`` by ``"<measure>/<role>"``, such as ``"loss/online"``.
    """

    example: int
    kept: bool
    score: float
    rank: int | None
    probability: float | None
    values: Mapping[str, float]
    scored_at: int | None
    reason: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one step chose from, by score, the highest first; ``notes`` say how to read it."""

    step: int
    circumstances: Circumstances
    examples: tuple[Explained, ...]
    notes: tuple[str, ...]


def explain(run: Run, step: int | None = None) -> Explanation:
    """Why ``run`` kept or dropped each example of ``step``, None: of the last one recorded.

    Raises ``RunError`` where the run has not recorded its choices, or not those of ``step``.
    """
    parts = _parts(run)
    step = max(last for _, last in parts.values()) if step is None else step
    table = next(
        (_read(part) for part, (first, last) in parts.items() if first <= step <= last), None
    )
    rows = None if table is None else _rows(table, step)
    if rows is None:
        first, last = (end(span[i] for span in parts.values()) for i, end in ((0, min), (1, max)))
        raise RunError(
            f"{run.folder} has recorded what steps {first} to {last} chose from, and step {step} "
            "is not among them; choices are written with each checkpoint"
        )
    scored_at = _scored_at(rows, [part for part, (first, _) in parts.items() if first <= step])
    return _explanation(run, rows, scored_at)


@dataclass(frozen=True, eq=False)
class _Rows:
    """What was recorded of one step. ``here``: scored in it; the others came from the bank."""

    step: int
    ids: Ids
    scores: Column
    chosen: NDArray[np.bool_]
    values: Mapping[str, Column]
    here: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        unknown = [np.isnan(column) for column in self.values.values()]
        # What failed to be scored is without values too, but then it was never chosen.
        older = self.chosen & np.all(unknown, axis=0) if unknown else np.zeros_like(self.chosen)
        object.__setattr__(self, "here", ~older)


def _parts(run: Run) -> dict[Path, tuple[int, int]]:
    """The first and the last step of each part, oldest first."""
    parts = {}
    for path in sorted((run.folder / "selection").glob("[!.]*.parquet")):
        first, _, last = path.stem.partition("-")
        if not (first.isdigit() and last.isdigit()):
            raise RunError(f"{path} is not named after its steps, FIRST-LAST; remove or rename it")
        parts[path] = int(first), int(last)
    if parts:
        return parts
    if (run.config.get("record") or {}).get("selection") == "none":
        raise RunError(
            f"{run.folder} was trained with --record.selection none; "
            "train again with --record.selection all to have its choices explained"
        )
    raise RunError(
        f"{run.folder} has not recorded what it chose from (selection/); that is written with "
        "each checkpoint: wait for the first, or set --record.checkpoint-every"
    )


def _read(part: Path, **how: Any) -> pa.Table:
    try:
        table = pq.read_table(part, **how)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{part} is broken ({error}); restore it") from error
    if missing := {"step", "id", "score", "chosen"} - set(table.column_names):
        raise RunError(f"{part} has no column {sorted(missing)[0]!r}; restore it")
    return table


def _rows(table: pa.Table, step: int) -> _Rows | None:
    """The rows of ``step``, None where there are none."""
    rows = table.filter(pa.compute.field("step") == step)
    if not len(rows):
        return None
    values = {name: _column(rows, name) for name in rows.column_names if "/" in name}
    chosen = np.asarray(rows["chosen"].to_numpy(), dtype=bool)
    ids = np.asarray(rows["id"].to_numpy(), dtype=np.int64)
    return _Rows(step, ids, _column(rows, "score"), chosen, values)


def _column(table: pa.Table, name: str) -> Column:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _scored_at(rows: _Rows, parts: list[Path]) -> dict[int, int]:
    """The step in which each example from the bank was scored, by id, where one is recorded.

    It is the last one before with the same score: the bank keeps what it was given.
    """
    missing = dict(zip(rows.ids[~rows.here].tolist(), rows.scores[~rows.here], strict=True))
    found: dict[int, int] = {}
    for part in reversed(parts):
        if not missing:
            break
        before = (pa.compute.field("step") < rows.step) & pa.compute.field("id").isin(list(missing))
        earlier = _read(part).filter(before)
        for step in sorted(set(earlier["step"].to_pylist()), reverse=True):
            there = _rows(earlier, step)
            assert there is not None
            for example, score in zip(there.ids[there.here], there.scores[there.here], strict=True):
                if missing.get(int(example)) == score:
                    found[int(example)] = step
                    del missing[int(example)]
    return found


def _explanation(run: Run, rows: _Rows, scored_at: Mapping[int, int]) -> Explanation:
    whole = (run.config.get("record") or {}).get("selection", "all") == "all"
    step = _circumstances(run, rows, whole)
    ranks = _ranks(rows) if whole and step.criterion != "uniform" else {}
    alone = not (step.waits or step.together or _apart(run))
    likely = _likely(rows, step) if whole and alone else {}
    order = np.lexsort((rows.ids, ~rows.chosen, -np.nan_to_num(rows.scores, nan=-np.inf)))
    examples = []
    for row in order.tolist():
        example, here = int(rows.ids[row]), bool(rows.here[row])
        at = rows.step if here else scored_at.get(example)
        case = Case(
            kept=bool(rows.chosen[row]),
            score=float(rows.scores[row]),
            rank=ranks.get(row),
            probability=likely.get(row),
            values={n: float(v[row]) for n, v in rows.values.items() if not np.isnan(v[row])},
            steps_ago=None if at is None else rows.step - at,
        )
        common = {name: value for name, value in vars(case).items() if name != "steps_ago"}
        examples.append(Explained(example, scored_at=at, reason=reason(case, step), **common))
    return Explanation(
        rows.step, step, tuple(examples), tuple(_notes(run, rows, step, whole, likely))
    )


def _circumstances(run: Run, rows: _Rows, whole: bool) -> Circumstances:
    select: Mapping[str, Any] = run.config.get("select") or {}
    finite = {name: column[np.isfinite(column)] for name, column in rows.values.items()}
    count = int(np.isfinite(rows.scores[rows.here]).sum())
    return Circumstances(
        criterion=str(select.get("criterion", "")),
        count=count if whole else int(select.get("super_batch_size", count)),
        size=int(rows.chosen.sum()),
        temperature=float(select.get("temperature", 1.0)),
        medians={n: float(np.median(v)) if len(v) else np.nan for n, v in finite.items()},
        waits=_waits(select),
        together=bool(select.get("joint", False)),
    )


def _waits(select: Mapping[str, Any]) -> bool:
    """Whether what is not chosen stays in a bank, to be chosen later."""
    sized = any(select.get(name) is not None for name in ("bank_examples", "samples_per_insert"))
    return sized or int(select.get("bank_super_batches", 1)) > 1


def _apart(run: Run) -> bool:
    """Whether each of several ranks chose from its own part of the super-batch."""
    ranks: Mapping[str, Any] = run.config.get("ranks") or {}
    return ranks.get("selection") == "local" and int(run.environment.get("ranks") or 1) > 1


def _ranks(rows: _Rows) -> dict[int, int]:
    """The rank of each row that was scored in this step and has a finite score."""
    scored = np.flatnonzero(rows.here & np.isfinite(rows.scores))
    descending = np.sort(-rows.scores[scored])
    ranks = 1 + np.searchsorted(descending, -rows.scores[scored])
    return dict(zip(scored.tolist(), ranks.tolist(), strict=True))


def _likely(rows: _Rows, step: Circumstances) -> dict[int, float]:
    return dict(enumerate(inclusion(rows.scores, step.size, temperature=step.temperature).tolist()))


def _notes(
    run: Run, rows: _Rows, step: Circumstances, whole: bool, likely: Mapping[int, float]
) -> list[str]:
    notes = []
    if rows.values:
        notes.append("High and low, hard and easy are against the median of this super-batch.")
    if not whole:
        notes.append(
            "The run recorded only what it kept, so that ranks, probabilities and what was dropped "
            "are not known; --record.selection all records them."
        )
    elif step.together:
        notes.append(
            "Pairs were chosen together, in chunks: scores and ranks are of each pair alone, and "
            "what it was worth beside the others is not recorded."
        )
    elif step.waits:
        notes.append(
            "Drawn from a memory bank of several super-batches: probabilities are not known, "
            "because what else lay in it is not recorded."
        )
    elif _apart(run):
        notes.append(
            "Each rank chose from its own part (--ranks.selection local), and which part that was "
            "is not recorded: places are in the whole super-batch, and probabilities are not known."
        )
    elif likely and step.criterion != "uniform" and step.temperature > 0:
        drawable = [likely[row] for row in np.flatnonzero(np.isfinite(rows.scores)).tolist()]
        least, most = min(drawable), max(drawable)
        notes.append(
            f"Probabilities, {least:.2f} to {most:.2f}, are given the threshold that lets "
            f"{step.size} in on average; exact ones differ by at most about {1 / step.size:.2g}."
        )
    if bad := int((~np.isfinite(rows.scores)).sum()):
        notes.append(f"{bad} of {len(rows.ids)} scores are not finite.")
    return notes
