"""``superbatch explain``: why each example of one super-batch was kept or dropped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from superbatch.cli.output import console, say
from superbatch.cli.report import open_training_data
from superbatch.cli.settings import JsonSwitch, Switch, parse
from superbatch.errors import ConfigError, SuperbatchError
from superbatch.report.explain import Explained, Explanation, explain
from superbatch.report.gallery import Seen, look_up
from superbatch.report.read import Run, read_run


class Explain(BaseModel):
    """superbatch explain RUN [--step S] [flags]. One super-batch, example by example."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """A run folder."""
    step: int | None = None
    """The step whose super-batch is explained; none: the last one recorded."""
    top: int | None = None
    """Only the so many most and least wanted; 0: all; none: 10, and all with --json."""
    id: tuple[int, ...] = ()
    """Only these examples."""
    no_data: Switch = False
    """Do not open the data to show labels or captions."""
    json_: JsonSwitch = False
    """Print the explanation as JSON."""


def run(argv: Sequence[str]) -> int:
    """Explain the super-batch that ``argv`` names."""
    arguments = parse(Explain, Explain(), argv, "explain RUN")
    if len(arguments.runs) != 1:
        raise ConfigError(
            f"explain takes one run folder and was given {len(arguments.runs)}: "
            "superbatch explain RUN --step S"
        )
    folder = read_run(arguments.runs[0])
    explanation = explain(folder, arguments.step)
    shown = chosen(explanation, arguments)
    seen, problem = ({}, None) if arguments.no_data else look(folder, shown)
    notes = (*explanation.notes, *([] if problem is None else [problem]))
    if arguments.json_:
        value = to_json(explanation) | {"examples": rows(shown, seen), "notes": notes}
        print(json.dumps(value, indent=2, allow_nan=False))
    else:
        show(explanation, shown, seen, notes)
    return 0


def chosen(explanation: Explanation, arguments: Explain) -> tuple[Explained, ...]:
    """The examples to show: those of --id, or the --top most and least wanted."""
    examples = explanation.examples
    if arguments.id:
        lacking = set(arguments.id) - {one.example for one in examples}
        if lacking:
            raise ConfigError(
                f"example {min(lacking)} is not among the {len(examples)} that step "
                f"{explanation.step} recorded; without --id all of them are listed"
            )
        return tuple(one for one in examples if one.example in arguments.id)
    top = (0 if arguments.json_ else 10) if arguments.top is None else arguments.top
    if top < 0:
        raise ConfigError(f"--top must be 0 (all) or more; it is {top}")
    return examples if not top or 2 * top >= len(examples) else examples[:top] + examples[-top:]


def look(folder: Run, shown: Sequence[Explained]) -> tuple[Mapping[int, Seen], str | None]:
    """What the data has to say of ``shown`` by id, and what was wrong if it could not be opened."""
    try:
        ids = np.array([one.example for one in shown], dtype=np.int64)
        return look_up(np.unique(ids), open_training_data(folder.config)), None
    except (SuperbatchError, OSError) as error:
        return {}, f"There are no labels: the data could not be opened ({error})."


def to_json(explanation: Explanation) -> dict[str, Any]:
    """What the examples have in common, as JSON values."""
    step = explanation.circumstances
    return {
        "step": explanation.step,
        "criterion": step.criterion,
        "temperature": step.temperature,
        "scored": step.count,
        "kept": step.size,
        "medians": {name: finite(value) for name, value in step.medians.items()},
    }


def rows(shown: Sequence[Explained], seen: Mapping[int, Seen]) -> list[dict[str, Any]]:
    """One object an example."""
    return [
        {"id": one.example}
        | {name: getattr(seen.get(one.example, Seen()), name) for name in WORDS}
        | {
            "kept": one.kept,
            "score": finite(one.score),
            "rank": one.rank,
            "probability": one.probability,
            "scored_at": one.scored_at,
        }
        | {name: finite(value) for name, value in one.values.items()}
        | {"reason": one.reason}
        for one in shown
    ]


WORDS = ("label", "truth", "caption", "matched")


def finite(value: float) -> float | None:
    """JSON has no word for what is not finite but null."""
    return value if np.isfinite(value) else None


def show(
    explanation: Explanation,
    shown: Sequence[Explained],
    seen: Mapping[int, Seen],
    notes: Sequence[str],
) -> None:
    """The table, how many examples it leaves out, and how to read it."""
    step = explanation.circumstances
    title = (
        f"step {explanation.step}: {step.size} drawn, {step.count} scored, "
        f"by {step.criterion} at temperature {step.temperature:g}"
    )
    console().print(table(title, list(step.medians), shown, seen))
    if left_out := len(explanation.examples) - len(shown):
        say(f"{left_out} more; --top 0 shows all")
    for note in notes:
        say(note)


def table(
    title: str, names: Sequence[str], shown: Sequence[Explained], seen: Mapping[int, Seen]
) -> Table:
    """One row an example, those that were kept in bold."""
    made = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    made.add_column("id", justify="right")
    said = {one.example: words(seen[one.example]) for one in shown if one.example in seen}
    if any(said.values()):
        made.add_column("label" if any(one.label for one in seen.values()) else "caption")
    for name in (*names, "score", "rank", "p"):
        made.add_column(escape(name.replace("/", "\n")), justify="right")
    made.add_column("why", ratio=1)
    for one in shown:
        cells = [str(one.example)]
        cells += [escape(said.get(one.example, ""))] if any(said.values()) else []
        cells += [decimal(one.values.get(name)) for name in names]
        cells += [decimal(one.score), "-" if one.rank is None else str(one.rank)]
        cells += [decimal(one.probability), escape(one.reason)]
        made.add_row(*cells, style="bold" if one.kept else "")
    return made


def words(one: Seen) -> str:
    """The label and what it should be, or the caption and whether it was moved."""
    if one.caption is not None:
        moved = "" if one.matched in (None, True) else " (of another image)"
        return (one.caption if len(one.caption) <= 40 else one.caption[:39] + "…") + moved
    wrong = one.truth is not None and one.truth != one.label
    return f"{one.label} (truly {one.truth})" if wrong else one.label or ""


def decimal(value: float | None) -> str:
    """Two decimals, a dash for what is not known."""
    return "-" if value is None else f"{value:.2f}"
