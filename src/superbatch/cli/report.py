"""``superbatch report``: one page on finished or running runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ValidationError

from superbatch.cli.output import console, say
from superbatch.cli.settings import JsonSwitch, Switch, parse
from superbatch.config import Config
from superbatch.errors import ConfigError, RunError
from superbatch.files import write_text
from superbatch.recipes import UNIFORM
from superbatch.report.gallery import Examples
from superbatch.report.read import Run, check_comparable, read_runs
from superbatch.report.speedup import Comparison, compare_runs
from superbatch.report.table import comparison_table


class Report(BaseModel):
    """superbatch report RUN... [flags]. Run folders, or a folder of them that compare wrote."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders, or folders of run folders."""
    baseline: str | None = None
    """A recipe or a run folder to hold the others against; none: uniform where there is one."""
    metric: str | None = None
    """What is compared: anything that metrics.jsonl has, losses are better when lower; none:
    val/accuracy, and val/mean_recall of runs on pairs."""
    out: Path | None = None
    """The page; none: report.html, or no page with --json."""
    json_: JsonSwitch = False
    """Print the numbers as JSON."""
    figures: Path | None = None
    """A folder for the main curves as SVG and PDF."""
    smooth: int = 1
    """Evaluations in the running median that is compared; 1: as measured."""
    allow_mixed: Switch = False
    """Compare runs of different lengths."""


def run(argv: Sequence[str]) -> int:
    """Compare the runs that ``argv`` names and write the page."""
    arguments = parse(Report, Report(), argv, "report RUN...")
    runs = read_runs(arguments.runs)
    check_comparable(runs, allow_mixed=arguments.allow_mixed)
    comparison = compare_runs(
        runs,
        metric=arguments.metric,
        baseline=baseline_of(arguments, runs),
        smooth=arguments.smooth,
    )
    written = write(arguments, runs, comparison)
    if arguments.json_:
        print(json.dumps(comparison.to_json(), indent=2))
    else:
        show(comparison, written)
    return 0


def baseline_of(arguments: Report, runs: Sequence[Run]) -> str | None:
    """The baseline asked for; a uniform recipe where one is among ``runs``; else none."""
    if arguments.baseline is not None:
        return arguments.baseline
    return next((name for name in UNIFORM if any(run.recipe == name for run in runs)), None)


def write(arguments: Report, runs: Sequence[Run], comparison: Comparison) -> list[Path]:
    """The page and the figures that were asked for."""
    written: list[Path] = []
    if arguments.figures is not None:
        from superbatch.report.figures import write_figures

        written += write_figures(comparison, arguments.figures)
    page = arguments.out
    if page is None and not arguments.json_:
        page = Path("report.html")
    if page is not None:
        from superbatch.report.page import build_page

        if page.is_dir():
            raise RunError(f"--out {page} is a folder; name a file, such as {page / 'report.html'}")
        write_text(page, build_page(runs, comparison, open_examples=open_training_data))
        written.append(page)
    return written


def open_training_data(config: Mapping[str, Any]) -> Examples:
    """The examples that a run with ``config`` learned from, its label noise included."""
    from superbatch.problems import problem_of  # imports torch: only for a page

    try:
        settings = Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError(f"its configuration is of another version: {error}") from error
    # Only the few pictures of the gallery are read: nothing is worth decoding ahead.
    return problem_of(settings.changed(data={"memory_gb": 0.0})).examples


def show(comparison: Comparison, written: Sequence[Path]) -> None:
    """The table, the verdict, and where the page is."""
    from superbatch.report.verdict import verdict

    console().print(comparison_table(comparison))
    said = verdict(comparison)
    for sentence in (said.headline, *said.details):
        say(sentence)
    for path in written:
        say(f"wrote {path}")
