"""The report: one HTML page that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from superbatch.errors import SuperbatchError
from superbatch.prefixes import si
from superbatch.report import charts
from superbatch.report.classes import (
    ClassChanges,
    ClassShare,
    Labels,
    class_balance,
    class_changes,
    class_shares,
)
from superbatch.report.costs import flops_by_role, seconds_by_phase
from superbatch.report.gallery import Examples, Group, OpenExamples, gallery, labels_of
from superbatch.report.read import Run
from superbatch.report.selection import Choices, read_choices
from superbatch.report.settings import read_settings
from superbatch.report.speedup import Comparison
from superbatch.report.table import HEADER, percent, plus_minus, table_rows
from superbatch.report.verdict import verdict


COLOURS = 8
"""Colours in the style sheet; the first is the baseline's."""


@dataclass(frozen=True)
class Selected:
    """What one run chose, for the page."""

    recipe: str
    colour: int
    seed: int
    examples: int
    histogram: Sequence[tuple[str, int]]
    shares: Sequence[ClassShare]
    groups: Sequence[Group]
    problem: str | None


@dataclass(frozen=True)
class Changed:
    """One recipe's classes against the baseline's."""

    recipe: str
    colour: int
    classes: ClassChanges


def build_page(
    runs: Sequence[Run], comparison: Comparison, *, open_examples: OpenExamples | None = None
) -> str:
    """The whole page as text.

    ``open_examples`` gives the data that the gallery shows; without it, or where it refuses, the
    page says that there are no pictures. All text from runs and data is escaped.
    """
    by_recipe: dict[str, list[Run]] = {}
    for result in comparison.results:
        by_recipe.setdefault(result.recipe, []).append(result.run)
    colours = _colours(comparison)
    choices = {run: read_choices(run) for run in runs}
    examples, no_pictures = _open(runs[0], open_examples)
    labels = labels_of(examples) if examples is not None else None
    selected = [
        _selected(seeds[0], recipe, colours[recipe], found, examples, labels)
        for recipe, seeds in by_recipe.items()
        if (found := choices[seeds[0]]) is not None
    ]
    drawn = {
        recipe: [_with_unique(run, choices[run]) for run in seeds]
        for recipe, seeds in by_recipe.items()
    }
    return _render(
        comparison=comparison,
        verdict=verdict(comparison),
        colours=colours,
        header=HEADER,
        rows=table_rows(comparison),
        payload=_payload(comparison, drawn, labels, colours),
        costs=[flops_by_role(by_recipe), seconds_by_phase(by_recipe)],
        selected=selected,
        no_pictures=no_pictures,
        changed=_changed(comparison, colours),
        settings=read_settings(by_recipe),
        runs=by_recipe,
    )


def _payload(
    comparison: Comparison,
    runs: Mapping[str, Sequence[Run]],
    labels: Labels | None,
    colours: Mapping[str, int],
) -> dict[str, Any]:
    """What the script draws."""
    diagnostics = charts.diagnostics_charts(runs)
    if labels is not None and (balance := _balance_chart(runs, labels)):
        diagnostics.append(balance)
    return {
        "recipes": [{"name": recipe, "colour": colours[recipe]} for recipe in runs],
        "main": charts.curves_chart(runs, comparison),
        "diagnostics": diagnostics,
        "scaling": charts.scaling_chart(comparison),
    }


def _with_unique(run: Run, choices: Choices | None) -> Run:
    if choices is None or "step" not in run.metrics:
        return run
    unique = choices.unique_learned(run.metrics["step"])
    return replace(run, metrics={**run.metrics, "examples_unique": unique})


def _colours(comparison: Comparison) -> dict[str, int]:
    """0 for the baseline; the others share the rest."""
    recipes = [summary.recipe for summary in comparison.summaries]
    others = recipes if comparison.baseline is None else recipes[1:]
    colours = {recipe: 1 + index % (COLOURS - 1) for index, recipe in enumerate(others)}
    return {recipe: colours.get(recipe, 0) for recipe in recipes}


def _open(run: Run, open_examples: OpenExamples | None) -> tuple[Examples | None, str | None]:
    if open_examples is None:
        return None, "There are no pictures: the data was not opened."
    try:
        return open_examples(run.config), None
    except (SuperbatchError, OSError) as error:
        return None, f"There are no pictures: the data could not be opened ({error})."


def _balance_chart(runs: Mapping[str, Sequence[Run]], labels: Labels) -> dict[str, Any] | None:
    lines = [(index, *class_balance(seeds[0], labels)) for index, seeds in enumerate(runs.values())]
    lines = [line for line in lines if len(line[1]) > 1]
    if not lines:
        return None
    return charts.line_chart(
        "Class balance", "effective classes among the chosen, first seed", lines
    )


def _selected(
    run: Run,
    recipe: str,
    colour: int,
    choices: Choices,
    examples: Examples | None,
    labels: Labels | None,
) -> Selected:
    criterion = str((run.config.get("select") or {}).get("criterion", ""))
    uniform = criterion == "uniform"
    groups, problem = ((), None) if uniform else _gallery(choices, examples, criterion)
    return Selected(
        recipe,
        colour,
        seed=run.seed,
        examples=len(choices.ids),
        histogram=choices.histogram(),
        shares=class_shares(choices, labels) if labels is not None and not uniform else (),
        groups=groups,
        problem=problem,
    )


def _gallery(
    choices: Choices, examples: Examples | None, criterion: str
) -> tuple[Sequence[Group], str | None]:
    try:
        return gallery(choices, examples, criterion=criterion), None
    except (SuperbatchError, OSError) as error:
        problem = f"There are no pictures: they could not be read ({error})."
        return gallery(choices, None, criterion=criterion), problem


def _changed(comparison: Comparison, colours: Mapping[str, int]) -> list[Changed]:
    changed = [
        Changed(summary.recipe, colours[summary.recipe], class_changes(comparison, summary.recipe))
        for summary in comparison.summaries
        if not summary.is_baseline
    ]
    return [change for change in changed if change.classes.changes]


def _render(**context: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_part),
    )
    environment.filters |= {"si": si, "percent": percent, "plus_minus": plus_minus}
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    script = _part("page.js")
    # Only this one script may run, whatever got into the page as text.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        style=Markup(_part("page.css")), script=Markup(script), script_hash=digest, **context
    )


def _part(name: str) -> str:
    return (files("superbatch.report") / name).read_text(encoding="utf-8")
