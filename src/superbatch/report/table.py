"""The comparison as a table for the terminal."""

from rich.markup import escape
from rich.table import Table

from superbatch.report.speedup import Comparison, RecipeSummary
from superbatch.report.statistics import Interval, Spread


HEADER = (
    "recipe",
    "seeds",
    "best",
    "final",
    "difference ± 95 %",
    "updates to baseline's best",
    "saved: updates",
    "saved: FLOPs, paper",
    "saved: FLOPs, full",
    "saved: seconds",
)
SPEEDUPS = (
    "learner_speedup",
    "compute_speedup_paper",
    "compute_speedup_full",
    "seconds_speedup",
)


def comparison_table(comparison: Comparison) -> Table:
    """One column a recipe: metric, difference to the baseline, and the four speed-ups."""
    title = f"{comparison.metric} against {comparison.baseline or 'no baseline'}"
    table = Table(
        title=escape(title), title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    recipe, *quantities = zip(HEADER, *table_rows(comparison), strict=True)
    for index, name in enumerate(recipe):
        table.add_column(escape(name), justify="right" if index else "left")
    for cells in quantities:
        table.add_row(*map(escape, cells))
    return table


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The cells under `HEADER`, one row a recipe."""
    return [_row(summary) for summary in comparison.summaries]


def _row(summary: RecipeSummary) -> list[str]:
    values, difference = summary.spreads, summary.final_difference
    missed = "not reached"
    if summary.reached:
        missed = f"{summary.reached} of {summary.compared} reached"
    missed = "-" if difference.mean is None else missed
    updates = values["updates_to_baseline"]
    return [
        summary.recipe,
        str(len(summary.seeds)),
        plus_minus(values["best"], "{:.4f}"),
        plus_minus(values["final"], "{:.4f}"),
        "-" if summary.is_baseline else signed_interval(difference),
        missed if updates.mean is None else plus_minus(updates, "{:,.0f}"),
        *("-" if summary.is_baseline else percent(values[key]) for key in SPEEDUPS),
    ]


def plus_minus(value: Spread, form: str) -> str:
    """``mean ± std``, the mean alone where there is no deviation, a dash where there is none."""
    if value.mean is None:
        return "-"
    tail = "" if value.std is None else " ± " + form.format(value.std)
    return form.format(value.mean) + tail


def percent(value: Spread) -> str:
    """A share with its sign in percent, ``+31.0 ± 2.1 %``; a dash where it is None."""
    if value.mean is None:
        return "-"
    tail = "" if value.std is None else f" ± {100 * value.std:.1f}"
    return f"{100 * value.mean:+.1f}{tail} %"


def signed_interval(difference: Interval) -> str:
    """``+0.0123 ± 0.0133``: the mean and half of the interval around it, where there is one."""
    if difference.mean is None:
        return "-"
    if difference.high is None:
        return f"{difference.mean:+.4f}"
    return f"{difference.mean:+.4f} ± {difference.high - difference.mean:.4f}"
