"""Run folders as values, whether the run is finished, running or was killed."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from superbatch.errors import RunError
from superbatch.files import read_json


Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder as it was when it was read; equal only to itself.

    ``metrics`` has one column a name, all of one length, sorted by ``step``; NaN where a line did
    not have that name. ``summary`` is None until the run has finished.
    """

    folder: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, Column]
    summary: Mapping[str, Any] | None

    @property
    def recipe(self) -> str:
        """The recipe's name; the folder's where the configuration has none."""
        return str(self.config.get("recipe") or self.folder.name)

    @property
    def seed(self) -> int:
        """The seed that the whole run derives from."""
        return int(self.config.get("seed") or 0)

    @property
    def horizon(self) -> int:
        """The learner updates that the run was set to take, where its schedules end."""
        return int(self.config.get("steps") or 0)

    @property
    def state(self) -> Literal["finished", "unfinished"]:
        """Unfinished is still running, or killed: the folder cannot tell the two apart."""
        return "finished" if self.summary is not None else "unfinished"

    @property
    def last_step(self) -> int:
        """The last step logged, 0 before the first."""
        steps = self.metrics.get("step")
        return int(steps[-1]) if steps is not None and len(steps) else 0

    def curve(self, metric: str, axis: str = "step") -> tuple[Column, Column]:
        """``axis`` and ``metric`` where both were logged and are finite; empty where never."""
        if metric not in self.metrics or axis not in self.metrics:
            return np.empty(0), np.empty(0)
        x, y = self.metrics[axis], self.metrics[metric]
        both = np.isfinite(x) & np.isfinite(y)
        return x[both], y[both]


def read_run(folder: Path | str) -> Run:
    """The run in ``folder``.

    A last line of ``metrics.jsonl`` that was cut short is left out. Of steps that were logged
    twice (a resumed run repeats those after its checkpoint) the later line counts.

    Raises:
        RunError: ``folder`` is missing, empty, not a run folder, or has a broken file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give the folder that --out named")
    if not any(folder.iterdir()):
        raise RunError(f"{folder} is empty; a run folder has at least a config.json")
    if not (folder / "config.json").is_file():
        raise RunError(
            f"{folder} has no config.json, so it is not a run folder; "
            "give a folder that `superbatch train` or `superbatch compare` wrote"
        )
    return Run(
        folder=folder,
        config=_read_object(folder / "config.json"),
        environment=_read_object(folder / "environment.json", missing={}) or {},
        metrics=_columns(_read_lines(folder / "metrics.jsonl")),
        summary=_read_object(folder / "summary.json", missing=None),
    )


def read_runs(paths: Iterable[Path | str]) -> list[Run]:
    """The runs of all ``paths``; a folder of run folders stands for all of those, by name.

    Raises:
        RunError: a path is neither a run folder nor a folder of run folders.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*/config.json")) if not (path / "config.json").exists() else []
        folders += [config.parent for config in inside] or [path]
    unique = {folder.resolve(): folder for folder in folders}
    return [read_run(folder) for folder in unique.values()]


DATA_FIELDS = (
    "path",
    "label",
    "text",
    "label_noise",
    "caption_noise",
    "image_size",
    "seed",
    "eval_path",
    "evaluation_fraction",
)

_DEFAULTS = {"caption_noise": 0.0, "text": "text"}
"""What a run meant whose configuration is older than the field."""


def check_comparable(runs: Sequence[Run], *, allow_mixed: bool = False) -> None:
    """Refuse runs that learned from other data, or (unless ``allow_mixed``) over other horizons.

    Raises:
        RunError: with both values and both folders.
    """
    for run in runs[1:]:
        first = runs[0]
        for field in DATA_FIELDS:
            ours, theirs = _data_field(first, field), _data_field(run, field)
            if ours != theirs:
                raise RunError(
                    f"runs of different data cannot be compared: data.{field} is {ours!r} in "
                    f"{first.folder} and {theirs!r} in {run.folder}; report them apart"
                )
        if run.horizon != first.horizon and not allow_mixed:
            raise RunError(
                f"runs of different horizons: {first.folder} ends after {first.horizon} steps and "
                f"{run.folder} after {run.horizon}; a schedule that has not ended yet looks "
                "worse than it is. Compare runs of one horizon, or pass --allow-mixed"
            )


def _data_field(run: Run, field: str) -> str | None:
    value = (run.config.get("data") or {}).get(field, _DEFAULTS.get(field))
    if isinstance(value, str) and field.endswith("path"):
        return os.path.normpath(value)
    return None if value is None else str(value)


def _read_object(path: Path, **missing: Any) -> Any:
    if "missing" in missing and not path.is_file():
        return missing["missing"]
    return read_json(path, dict, "restore it or leave the run out")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "step" not in row:
                raise ValueError("no object with a step")
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(
                f"{path}, line {number} of {len(lines)} is broken ({error}); only the last line "
                "of a run that was stopped may be: remove the line, or leave the run out"
            ) from error
        rows.append(row)
    return rows


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    latest = {row["step"]: row for row in rows}
    ordered = [latest[step] for step in sorted(latest)]
    names = dict.fromkeys(name for row in ordered for name in row)
    columns = {
        name: np.array([_number(row.get(name)) for row in ordered], dtype=np.float64)
        for name in names
    }
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
