"""Follow-ups: runs that finished ones ask for, as ``superbatch compare --confirm`` makes them.

A curve says where an arm *passed* uniform's best, its learning rate still high. What counts is a
run that *ends* there, fully decayed; and uniform with as much compute in total as the arm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from paper.arm import Arm
from paper.claims import Study
from paper.store import Store
from superbatch.cli.confirm import updates_of_equal_compute, updates_to_confirm
from superbatch.report.speedup import Comparison, RecipeSummary, compare_runs


@dataclass(frozen=True)
class Followed:
    """What is run again for ``arm``: uniform at its FLOPs; it, to end where it had caught up."""

    arm: Arm
    equal: Arm
    sooner: Arm | None


def comparison_of(store: Store, study: Study, arm: Arm, seeds: Sequence[int]) -> Comparison:
    """``arm`` against its baseline, a pair a seed; all of those must have ended."""
    baseline = study.baseline(arm)
    arms = list(dict.fromkeys([baseline, arm]))
    runs = [store.run_of(one, seed) for one in arms for seed in seeds]
    return compare_runs(runs, baseline=baseline.name)


def summary_of(comparison: Comparison, arm: Arm) -> RecipeSummary:
    """What a comparison found of ``arm``."""
    return next(one for one in comparison.summaries if one.recipe == arm.name)


def has_ended(store: Store, arm: Arm, seeds: Sequence[int]) -> bool:
    """Whether ``arm`` has ended with every seed."""
    return all(store.summary(arm, seed) is not None for seed in seeds)


def followed(
    store: Store, study: Study, arm: Arm, seeds: Sequence[int], grid: int
) -> Followed | None:
    """What ``arm`` asks for; None while it or its baseline has not ended with every seed."""
    baseline = study.baseline(arm)
    if not study.follows or arm is baseline or arm in study.uniform:
        return None
    if not (has_ended(store, arm, seeds) and has_ended(store, baseline, seeds)):
        return None
    comparison = comparison_of(store, study, arm, seeds)
    steps = updates_of_equal_compute(comparison, arm.name, baseline.steps)
    part = baseline.steps / grid
    equal = replace(baseline, steps=round(math.ceil(steps / part - 1e-6) * part))
    updates = updates_to_confirm(summary_of(comparison, arm))
    sooner = replace(arm, steps=updates) if updates is not None and updates < arm.steps else None
    return Followed(arm, equal, sooner)


def follow_ups(store: Store, study: Study, seeds: Sequence[int], grid: int) -> list[Arm]:
    """All arms that finished ones ask for."""
    found = [followed(store, study, arm, seeds, grid) for arm in study.others]
    return [
        arm
        for one in found
        if one is not None
        for arm in (one.equal, one.sooner)
        if arm is not None
    ]
