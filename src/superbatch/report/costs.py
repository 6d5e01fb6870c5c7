"""Where FLOPs and seconds went, by role and by phase."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superbatch.report.read import Run


COLOURS = {
    "learner: learn": 0,
    "learner: score": 1,
    "online: learn": 2,
    "online: score": 3,
    "reference: pretrain": 4,
    "reference: score": 5,
    "reference: learn": 6,
    "learner": 0,
    "online": 2,
    "scoring": 3,
    "reference": 4,
    "selection": 6,
    "evaluation": 7,
    "data": 8,
    "recording": 9,
}
"""One hue a role, lighter where it scores; the same for its phases. Ten colours in all."""


@dataclass(frozen=True)
class Part:
    """One stretch of a bar: what it was spent on, how much, and its share of the longest bar."""

    name: str
    colour: int
    value: float
    share: float


@dataclass(frozen=True)
class Bar:
    """One recipe's costs, means over its finished seeds; ``relative`` to the first bar's total."""

    recipe: str
    total: float
    relative: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Breakdown:
    """Bars of one unit, and the colours of their parts by name, in order."""

    title: str
    colours: Mapping[str, int]
    bars: tuple[Bar, ...]


def flops_by_role(runs: Mapping[str, Sequence[Run]]) -> Breakdown:
    """FLOPs of the full accounting by role and work; evaluation is a cost of no recipe."""
    return _breakdown("FLOPs by role, full accounting", runs, _flops)


def seconds_by_phase(runs: Mapping[str, Sequence[Run]]) -> Breakdown:
    """Seconds by phase of the run."""
    return _breakdown("Seconds by phase", runs, _seconds)


Spent = Mapping[str, float]


def _flops(summary: Mapping[str, Any]) -> Spent:
    by_role = (summary.get("flops") or {}).get("by_role") or {}
    return {
        f"{role}: {work}": float(flops)
        for role, works in by_role.items()
        for work, flops in works.items()
        if flops and work != "evaluate"
    }


def _seconds(summary: Mapping[str, Any]) -> Spent:
    by_phase = (summary.get("seconds") or {}).get("by_phase") or {}
    return {str(phase): float(seconds) for phase, seconds in by_phase.items() if seconds}


def _breakdown(
    title: str, runs: Mapping[str, Sequence[Run]], spent: Callable[[Mapping[str, Any]], Spent]
) -> Breakdown:
    costs = {
        recipe: _mean([spent(run.summary) for run in seeds if run.summary is not None])
        for recipe, seeds in runs.items()
    }
    costs = {recipe: parts for recipe, parts in costs.items() if parts}
    names = dict.fromkeys(name for parts in costs.values() for name in parts)
    colours = {name: COLOURS.get(name, index % 10) for index, name in enumerate(names)}
    totals = {recipe: sum(parts.values()) for recipe, parts in costs.items()}
    longest, first = max(totals.values(), default=1.0), next(iter(totals.values()), 1.0)
    bars = [
        Bar(
            recipe,
            totals[recipe],
            totals[recipe] / first,
            tuple(
                Part(name, colours[name], parts[name], parts[name] / longest)
                for name in names
                if name in parts
            ),
        )
        for recipe, parts in costs.items()
    ]
    return Breakdown(title, colours, tuple(bars))


def _mean(costs: Sequence[Spent]) -> dict[str, float]:
    names = dict.fromkeys(name for parts in costs for name in parts)
    return {name: sum(parts.get(name, 0.0) for parts in costs) / len(costs) for name in names}
