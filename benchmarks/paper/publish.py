"""What is published of a claim: a JSON file, a figure, and a table for docs/results.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper.claims import Claim, Study
from paper.results import epochs_to, study_numbers
from paper.settings import Preset
from paper.store import Store
from superbatch.files import write_json
from superbatch.report.scaling import fit_power_law


def claim_numbers(
    store: Store,
    claim: Claim,
    studies: Sequence[Study],
    seeds: Sequence[int],
    preset: tuple[str, Preset],
    on: str,
) -> dict[str, Any]:
    """All that is published of a claim, as far as its runs have ended."""
    name, settings = preset
    found = []
    for study in studies:
        numbers = study_numbers(store, study, seeds, settings.grid)
        if claim.figure == "budgets":
            numbers["fits"] = fits(numbers["arms"])
        for shown in numbers["arms"] if claim.targets else ():
            arm = next(one for one in study.others + study.uniform if one.name == shown["name"])
            if arm in study.others:
                shown["epochs_to"] = epochs_to(store, study, arm, seeds, claim.targets)
        found.append(numbers)
    return {
        "claim": claim.name,
        "paper": {"where": f"{claim.paper}, {claim.where}", "says": claim.says},
        "compares": claim.compares,
        "preset": name,
        "evaluated_on": on,
        "made_on": made_on(store, [key for numbers in found for key in runs_of(numbers)]),
        "studies": found,
    }


def runs_of(numbers: Mapping[str, Any]) -> list[str]:
    """The names of all runs of a study."""
    return [key for arm in numbers["arms"] for key in arm["runs"]]


def made_on(store: Store, runs: Sequence[str]) -> dict[str, list[str]]:
    """Devices, versions of torch and numbers of threads that the runs say they were made with."""
    said = [store.environment(key) for key in runs]
    return {
        name: sorted({str(one[name]) for one in said}) for name in ("device", "torch", "threads")
    }


def fits(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The power law through what each criterion reached with every budget, over full FLOPs.

    None where the budgets determine none.
    """
    found: dict[str, Any] = {}
    for criterion in dict.fromkeys(arm["about"]["criterion"] for arm in arms):
        own = [arm for arm in arms if arm["about"]["criterion"] == criterion]
        points = [(arm["flops"]["full"], one["final"]) for arm in own for one in arm["by_seed"]]
        x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
        law = fit_power_law(x, y)
        found[criterion] = None
        if law is not None:
            grid = np.geomspace(x.min(), x.max(), 40)
            found[criterion] = {
                "offset": law.offset.to_json(),
                "factor": law.factor.to_json(),
                "exponent": law.exponent.to_json(),
                "scale": law.scale,
                "x": [float(f"{value:.6g}") for value in grid],
                "y": [float(f"{value:.6g}") for value in law.at(grid)],
            }
    return found


def write(found: Mapping[str, Any], out: Path) -> list[Path]:
    """The numbers and the figure of a claim in ``out``."""
    from paper.figures import write_figure  # matplotlib is slow to import

    claim, preset = str(found["claim"]).lower(), str(found["preset"])
    name = preset if preset.startswith(claim) else f"{claim}-{preset}".removesuffix("-cpu")
    path = out / f"paper-{name}.json"
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return [path, write_figure(found, path.with_suffix(".svg"))]


SLOWER = 1.15
"""Seconds of the processor over those that are predicted, from which it is said."""
HEAD = (
    "| arm | final | difference to uniform | updates saved | FLOPs saved, paper / full "
    "| TFLOPs, paper / full | at equal FLOPs | ended sooner | clean "
    "| seconds of the processor, over uniform's / over the models' rates |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def table(found: Mapping[str, Any]) -> str:
    """The table of a claim, a part for each data set."""
    lines = [f"### {found['claim']} ({found['paper']['where']})", "", found["paper"]["says"], ""]
    for study in found["studies"]:
        lines += [f"**{study['says']}**", "", HEAD, *map(row, study["arms"]), ""]
        lines += slower(study["arms"])
        lines += [fit_line(name, fit) for name, fit in study.get("fits", {}).items()]
        for arm in study["arms"]:
            lines += [epochs_line(arm["name"], target) for target in arm.get("epochs_to", [])]
        waiting = [*study["unfinished"], *map(waiting_words, study["waiting"])]
        if waiting:
            lines += ["", f"Not run: {', '.join(waiting)}."]
        lines.append("")
    return "\n".join(lines)


def fit_line(name: str, fit: Mapping[str, Any] | None) -> str:
    """What the power law of a criterion tends to."""
    if fit is None:
        return f"- {name}: these budgets determine no power law"
    return (
        f"- {name}: tends to {interval(fit['offset'], '{:.3f}')} with exponent "
        f"{interval(fit['exponent'], '{:.2f}')}"
    )


PREDICTED = {
    "processor_over_predicted": "its FLOPs at uniform's pace",
    "processor_over_rates": "its FLOPs, each model's at its own pace",
}


def slower(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which arms took longer than predicted, for each way to predict that is known."""
    lines = []
    for key, what in PREDICTED.items():
        over = {arm["name"]: arm["seconds"][key] for arm in arms}
        known_over = {name: value for name, value in over.items() if value is not None}
        slow = [f"{name} ({value:.2f})" for name, value in known_over.items() if value > SLOWER]
        if known_over:
            names = ", ".join(slow) or f"none of {len(known_over)}"
            lines += [f"Over {SLOWER} times the seconds of {what}: {names}.", ""]
    return lines


def epochs_line(name: str, target: Mapping[str, Any]) -> str:
    """How many times fewer epochs an arm took to a share of uniform's final accuracy."""
    of = f"{target['share']:.0%} of uniform's final accuracy"
    if target["mean"] is None:
        return f"- {name}: {of} is not reached with every seed"
    return f"- {name}: {of} in {spread(target, '{:.2f}')} times fewer epochs"


def waiting_words(one: Mapping[str, Any]) -> str:
    """A follow-up that has not been run."""
    what = "uniform at the FLOPs of" if one["for"] == "equal" else "ended sooner:"
    return f"{what} {one['arm']} ({one['steps']} updates)"


def row(arm: Mapping[str, Any]) -> str:
    """One arm of the table."""
    is_baseline = arm["name"] == arm["baseline"]
    clean = (arm["clean_share"] or {}).get("chosen")
    paper, full = (arm["flops"][name] / 1e12 for name in ("paper", "full"))
    saved = [spread(arm[f"compute_speedup_{name}"], "{:.0%}") for name in ("paper", "full")]
    once = f" + {arm['paid_once'] / 1e12:.3g} once" if arm["paid_once"] else ""
    equal, sooner = arm["equal_compute"], arm["sooner"]
    cells = [
        arm["name"],
        spread(arm["final"], "{:.4f}"),
        "-" if is_baseline else interval(arm["difference"], "{:+.4f}"),
        "-" if is_baseline else spread(arm["learner_speedup"], "{:.0%}"),
        "-" if is_baseline else " / ".join(saved),
        f"{paper:.3g} / {full:.3g}" + once,
        "-" if equal is None else interval(equal["difference"], "{:+.4f}"),
        "-" if sooner is None else ended_sooner(sooner),
        "-" if clean is None else f"{clean['mean']:.3f}",
        over_predicted(arm["seconds"]),
    ]
    return f"| {' | '.join(cells)} |"


def over_predicted(seconds: Mapping[str, Any]) -> str:
    """Seconds of the processor over uniform's, and over what the FLOPs of each model predict."""
    both = (seconds["processor_relative"], seconds["processor_over_rates"])
    return " / ".join(known(value, "{:.2f}") for value in both)


def known(value: float | None, form: str) -> str:
    """A number, or "?" where a session was lost and it is not known."""
    return "?" if value is None else form.format(value)


def ended_sooner(sooner: Mapping[str, Any]) -> str:
    """What the run that ended where it had caught up came to, of uniform's."""
    return (
        f"{interval(sooner['difference'], '{:+.4f}')} with {sooner['updates']:.0%} of updates, "
        f"{sooner['relative_flops']['full']:.0%} of FLOPs, "
        f"{known(sooner['seconds']['processor_relative'], '{:.0%}')} of seconds"
    )


def spread(value: Mapping[str, Any], form: str) -> str:
    """Mean and deviation; "not by all" where a seed did not reach the target."""
    if value["mean"] is None:
        return "not by all"
    deviation = "" if value["std"] is None else f" ± {form.replace('+', '').format(value['std'])}"
    mean = form.format(value["mean"])
    return ("0%" if mean == "-0%" else mean) + deviation


def interval(value: Mapping[str, Any], form: str) -> str:
    """Mean and the ends of the interval."""
    if value["mean"] is None:
        return "-"
    ends = (
        ""
        if value["low"] is None
        else f" [{form.format(value['low'])}, {form.format(value['high'])}]"
    )
    return form.format(value["mean"]) + ends
