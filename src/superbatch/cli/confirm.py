"""``superbatch compare --confirm``: speed-ups read off a curve, run again as runs of their own.

A curve says where a run *passed* the baseline's best, with its learning rate still high. What
counts is a run that *ends* there, fully decayed; and the baseline with as much compute in total.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from superbatch.config import Config
from superbatch.report.speedup import Comparison, RecipeSummary
from superbatch.report.statistics import spread
from superbatch.report.table import plus_minus
from superbatch.run import RunFolder


@dataclass(frozen=True)
class Trial:
    """What is run again: ``recipe`` for ``steps`` updates, to answer ``question``."""

    question: str
    recipe: str
    steps: int


def trials(comparison: Comparison, steps: int) -> list[Trial]:
    """Each recipe at the updates that reached the baseline's best; the baseline at its compute.

    ``steps`` are the updates of the comparison. A recipe that did not reach the baseline's best
    with every seed has nothing to confirm at fewer updates.
    """
    found = []
    for summary in comparison.summaries:
        if summary.is_baseline:
            continue
        updates = updates_to_confirm(summary)
        if updates is not None:
            found.append(Trial("the baseline's best, sooner?", summary.recipe, updates))
        question = f"as much compute as {summary.recipe}"
        assert comparison.baseline is not None
        equal = updates_of_equal_compute(comparison, summary.recipe, steps)
        found.append(Trial(question, comparison.baseline, equal))
    return found


def updates_to_confirm(summary: RecipeSummary) -> int | None:
    """Updates, mean over seeds, that reached the baseline's best; None unless every seed did."""
    updates = summary.spreads["updates_to_baseline"].mean
    return None if updates is None else round(updates)


def updates_of_equal_compute(comparison: Comparison, recipe: str, steps: int) -> int:
    """Updates with which the baseline, ``steps`` long, spends what ``recipe`` did in full."""
    spent = {
        one: fmean(_full_flops(r.run.folder) for r in comparison.results if r.recipe == one)
        for one in (recipe, comparison.baseline)
    }
    return round(steps * spent[recipe] / spent[comparison.baseline])


def _full_flops(folder: Path) -> float:
    summary = RunFolder.open(folder).summary()
    return float(summary["flops"]["full"])


def confirming_runs(
    found: Sequence[Trial], runs: Sequence[Config], out: Path
) -> list[tuple[Trial, Config]]:
    """For each trial the runs of its recipe, one a seed, with its updates and a folder of its own.

    The reference learns as long as before: only the schedule of what is trained may differ. Trials
    with the same recipe and updates share their runs.
    """
    return [
        (
            trial,
            config.changed(
                steps=trial.steps,
                reference_training={"steps": config.reference_training.steps or config.steps},
                out=str(out / "confirm" / f"{trial.recipe}-{trial.steps}-seed{config.seed}"),
            ),
        )
        for trial in found
        for config in runs
        if config.recipe == trial.recipe
    ]


def confirmation(
    comparison: Comparison, ran: Sequence[tuple[Trial, Config]]
) -> list[dict[str, Any]]:
    """Per trial: final metric and FLOPs over the seeds, and the baseline's best to hold against."""
    best = fmean(r.best for r in comparison.results if r.is_baseline and r.best is not None)
    name = comparison.metric.removeprefix("val/")
    rows = []
    for trial in dict.fromkeys(trial for trial, _ in ran):
        summaries = [
            RunFolder.open(Path(str(config.out))).summary() for one, config in ran if one == trial
        ]
        final = spread([summary["val"][name] for summary in summaries])
        rows.append(
            {
                "question": trial.question,
                "recipe": trial.recipe,
                "steps": trial.steps,
                "final": final.to_json(),
                "baseline_best": best,
                "flops_paper": fmean(summary["flops"]["paper"] for summary in summaries),
                "flops_full": fmean(summary["flops"]["full"] for summary in summaries),
                "shown": plus_minus(final, "{:.4f}"),
            }
        )
    return rows


def confirmation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The trials for the terminal."""
    table = Table(title="Run again, fully decayed", title_justify="left", box=None, pad_edge=False)
    for name in ("question", "recipe", "updates", "full FLOPs", "final", "baseline's best"):
        table.add_column(name, justify="left" if name in ("question", "recipe") else "right")
    for row in rows:
        table.add_row(
            row["question"],
            row["recipe"],
            str(row["steps"]),
            f"{row['flops_full']:.3g}",
            row["shown"],
            f"{row['baseline_best']:.4f}",
        )
    return table
