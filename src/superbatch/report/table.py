"""The comparison as a table for the terminal."""

from rich.markup import escape
from rich.table import Table

from superbatch.report.speedup import Comparison, RecipeSummary
from superbatch.report.statistics import Spread


def comparison_table(comparison: Comparison) -> Table:
    """One row a recipe: metric, difference to the baseline, and the four speed-ups."""
    title = f"{comparison.metric} against {comparison.baseline or 'no baseline'}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("recipe")
    for name in ("seeds", "best", "final", "difference [95 %]", "updates to baseline"):
        table.add_column(name, justify="right")
    for name in ("updates", "FLOPs, paper", "FLOPs, full", "seconds"):
        table.add_column(f"saved:\n{name}", justify="right")
    for summary in comparison.summaries:
        table.add_row(*map(escape, _row(summary)))
    return table


def _row(summary: RecipeSummary) -> list[str]:
    values = summary.spreads
    difference = summary.final_difference
    seeds = len(summary.seeds)
    missed = "not reached" if not summary.reached else f"{summary.reached} of {seeds} reached"
    updates = values["updates_to_baseline"]
    return [
        summary.recipe,
        str(seeds),
        plus_minus(values["best"], "{:.4f}"),
        plus_minus(values["final"], "{:.4f}"),
        "-"
        if summary.is_baseline
        else signed_interval(difference.mean, difference.low, difference.high),
        missed if updates.mean is None else plus_minus(updates, "{:,.0f}"),
        *(
            "-" if summary.is_baseline else percent(values[key])
            for key in (
                "learner_speedup",
                "compute_speedup_paper",
                "compute_speedup_full",
                "seconds_speedup",
            )
        ),
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


def signed_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """``+0.0123 [-0.0010, +0.0256]``, without the interval where there is none."""
    if mean is None:
        return "-"
    return f"{mean:+.4f}" + ("" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]")
