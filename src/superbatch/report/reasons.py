"""Why an example was kept or dropped, in words.

Hard and easy, high and low are against the median of the example's own super-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


NAMES = {"learner": "the learner", "online": "the online model", "reference": "the reference"}


@dataclass(frozen=True)
class Circumstances:
    """What all examples of a super-batch have in common.

    ``count`` examples were scored and could be drawn, ``size`` were. ``medians`` of what was asked
    of each role, by ``"<measure>/<role>"``. ``waits``: what is not drawn stays in a memory bank;
    ``together``: pairs were chosen jointly, not each for itself.
    """

    criterion: str
    count: int
    size: int
    temperature: float
    medians: Mapping[str, float]
    waits: bool = False
    together: bool = False


@dataclass(frozen=True)
class Case:
    """One example: its ``score``, and ``values`` by ``"<measure>/<role>"``.

    ``rank`` from 1, the highest score, and ``probability`` are None where they are not known;
    ``steps_ago`` it was scored, None where not known; 0 is in this very step.
    """

    kept: bool
    score: float
    rank: int | None
    probability: float | None
    values: Mapping[str, float]
    steps_ago: int | None = 0


def reason(case: Case, step: Circumstances) -> str:
    """One sentence: what happened to the example, and why."""
    if case.steps_ago != 0:
        return f"kept: it came from the memory bank, {ago(case.steps_ago)}"
    if not np.isfinite(case.score):
        return "dropped: its score is not finite, and such scores are never drawn"
    if step.criterion == "uniform":
        return without_scores(case.kept, step)
    if step.count <= step.size and not step.waits:
        return "kept: the super-batch came out short, so that all of it was learned from"
    because = why(case, step)
    return f"{fate(case, step)}: {because}" if because else fate(case, step)


def ago(steps: int | None) -> str:
    """When an example from the memory bank was scored."""
    if steps is None:
        return "scored at an earlier step"
    return f"scored {steps} step{'s' if steps > 1 else ''} ago"


def without_scores(kept: bool, step: Circumstances) -> str:
    """Uniform sampling has no other reason than the draw."""
    if step.count <= step.size:
        return "kept: without selection, all that is drawn is learned from"
    return f"{'kept' if kept else 'dropped'} by the draw alone: nothing was scored"


def fate(case: Case, step: Circumstances) -> str:
    """Kept or dropped, and by what: its score, the luck of the draw, its company."""
    place = f"rank {case.rank} of {step.count}"
    dropped = "left in the memory bank" if step.waits else "dropped"
    did = "kept" if case.kept else dropped
    if case.rank is None:
        return did
    if step.together:
        return f"{did}, pairs being chosen together (alone {place})"
    if step.temperature == 0 or step.waits:
        return f"{did} ({place})"
    if case.kept == wanted(case, step):
        return did if case.kept else f"{did} ({place})"
    likely = "" if case.probability is None else f", probability {case.probability:.2f}"
    return f"{did} by luck of the draw ({place}{likely})"


def wanted(case: Case, step: Circumstances) -> bool:
    """Whether its score is one of those that would be kept if the highest were."""
    return case.kept if case.rank is None else case.rank <= step.size


def why(case: Case, step: Circumstances) -> str:
    """What the models said of it; empty where nothing is known."""
    match sorted(case.values):
        case []:
            return ""
        case [str(other), "loss/reference"] if other in ("loss/learner", "loss/online"):
            return learnable(case, step, other)
        case [str(only)] if only.startswith("loss/"):
            finds = "hard" if is_high(only, case, step) else "easy"
            return f"{NAMES[_role(only)]} finds it {finds} (loss {number(case.values[only])})"
    said = (
        f"{_measure(name)} of {NAMES[_role(name)]} {number(value)} "
        f"({'high' if is_high(name, case, step) else 'low'})"
        for name, value in case.values.items()
    )
    return ", ".join(said)


def learnable(case: Case, step: Circumstances, other: str) -> str:
    """Why the loss of ``other`` less that of the reference is large, or is not."""
    model, reference = NAMES[_role(other)], NAMES["reference"]
    loss, least = case.values[other], case.values["loss/reference"]
    its, theirs = number(loss), number(least)
    if wanted(case, step):
        if is_high("loss/reference", case, step):
            return f"hard for both, and harder for {model} (loss {its}) than {reference} ({theirs})"
        return f"{model} has not learned it (loss {its}) and {reference} has ({theirs})"
    if is_high(other, case, step):
        return f"high loss for both ({its} and {theirs}), likely noise, or too hard for now"
    if loss <= least:
        return f"{model} knows it as well as {reference} does (loss {its} and {theirs})"
    return f"{model} has learned it already (loss {its}; {reference} {theirs})"


def is_high(name: str, case: Case, step: Circumstances) -> bool:
    """Whether its value is above the median of its super-batch."""
    return case.values[name] > step.medians[name]


def number(value: float) -> str:
    """Two digits that count, and never an exponent for what losses usually are."""
    if not np.isfinite(value):
        return "not finite"
    return f"{value:.1f}" if 1 <= abs(value) < 1000 else f"{value:.2g}"


def _measure(name: str) -> str:
    return name.rpartition("/")[0].replace("_", " ")


def _role(name: str) -> str:
    return name.rpartition("/")[2]
