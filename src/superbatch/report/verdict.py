"""What a comparison comes to, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from superbatch.report.speedup import Comparison, RecipeSummary


@dataclass(frozen=True)
class Verdict:
    """``headline``: the one sentence to remember; ``details``: what it rests on."""

    headline: str
    details: tuple[str, ...]


def verdict(comparison: Comparison) -> Verdict:
    """The answer to "does it pay?", of the recipe that saves the most FLOPs in all first."""
    others = [summary for summary in comparison.summaries if not summary.is_baseline]
    notes = _notes(comparison)
    if comparison.baseline is None:
        return Verdict("There is no baseline among these runs to compare with.", notes)
    if not others:
        return Verdict(
            f"These are runs of the baseline {comparison.baseline} only; nothing to compare.", notes
        )
    if all(summary.spreads["best"].mean is None for summary in comparison.summaries):
        return Verdict("No run has been evaluated yet.", notes)
    others.sort(key=_saving, reverse=True)
    sentences: list[str] = []
    for summary in others:
        sentences += [
            _headline(comparison, summary),
            *_other_costs(summary),
            _at_the_end(comparison, summary),
        ]
    headline, *details = sentences
    return Verdict(headline, (*details, *notes))


def _saving(summary: RecipeSummary) -> float:
    mean = summary.spreads["compute_speedup_full"].mean
    return -float("inf") if mean is None else mean


def _headline(comparison: Comparison, summary: RecipeSummary) -> str:
    name, baseline = summary.recipe, comparison.baseline
    target = f"the best {comparison.metric} of {baseline}"
    count = summary.compared
    if not count:
        return f"{name} has no run of a seed of {baseline}'s to be held against."
    if not summary.reached:
        tail = "" if count == 1 else f" with any of its {count} seeds"
        return f"{name} never reached {target}{tail}."
    if summary.reached < count:
        return f"{name} reached {target} with {summary.reached} of {count} seeds only."
    learner = _change(summary, "learner_speedup", "learner updates")
    full = _change(summary, "compute_speedup_full", "FLOPs in all")
    if learner is None or full is None:
        return f"{name} reached {target}."
    word = "pays" if _saving(summary) > 0 else "does not pay"
    return f"{name} {word}: it reached {target} with {learner} and {full}."


def _other_costs(summary: RecipeSummary) -> list[str]:
    paper = _change(summary, "compute_speedup_paper", "FLOPs in the paper's accounting")
    seconds = _change(summary, "seconds_speedup", "seconds")
    costs = " and ".join(cost for cost in (paper, seconds) if cost)
    return [f"{summary.recipe} took {costs}."] if costs else []


def _change(summary: RecipeSummary, key: str, unit: str) -> str | None:
    value = summary.spreads[key].mean
    if value is None:
        return None
    return f"{100 * abs(value):.1f}\u00a0% {'fewer' if value >= 0 else 'more'} {unit}"


def _at_the_end(comparison: Comparison, summary: RecipeSummary) -> str:
    difference = summary.final_difference
    if difference.mean is None:
        return f"{summary.recipe} and {comparison.baseline} have no final value to compare."
    text = (
        f"The final {comparison.metric} of {summary.recipe} differs from {comparison.baseline}'s "
        f"by {_signed(difference.mean)}"
    )
    if summary.one_baseline:
        return (
            f"{text}, {summary.compared} seeds against one run of {comparison.baseline}; as many "
            "of its seeds would show whether that is chance."
        )
    if difference.low is None or difference.high is None:
        return f"{text}, with one seed; several would show whether that is chance."
    interval = f"95\u00a0% interval {_signed(difference.low)} to {_signed(difference.high)}"
    inside = difference.low <= 0 <= difference.high
    meaning = "which could be chance" if inside else "more than chance explains"
    return f"{text} ({interval}, {summary.pairs} seeds), {meaning}."


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\u2212")


def _notes(comparison: Comparison) -> tuple[str, ...]:
    return tuple(unfinished(comparison)) + tuple(_without_pair(comparison))


def unfinished(comparison: Comparison) -> Sequence[str]:
    """One sentence for every run that has not finished."""
    return [
        f"{result.recipe}, seed {result.run.seed} is unfinished (step {result.run.last_step} of "
        f"{result.run.horizon}): its numbers are so far."
        for result in comparison.results
        if result.run.state == "unfinished"
    ]


def _without_pair(comparison: Comparison) -> Sequence[str]:
    if comparison.baseline is None:
        return []
    return [
        f"{result.recipe}, seed {result.run.seed} has no {comparison.baseline} run of its seed."
        for result in comparison.results
        if result.baseline is None
    ]
