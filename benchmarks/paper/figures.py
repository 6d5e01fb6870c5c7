"""Figures of the published numbers, drawn from the JSON alone (extra ``[figures]``)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superbatch.report.figures import COLOURS


Arms = Sequence[Mapping[str, Any]]


def write_figure(found: Mapping[str, Any], path: Path) -> Path:
    """The figure of a claim, a panel for each data set. The same numbers give the same file."""
    studies = [study for study in found["studies"] if study["arms"]]
    drawn = PANELS[figure_of(found)]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "superbatch"}):
        count = max(1, len(studies))
        figure = Figure(figsize=(4.6 * count, 3.4), layout="constrained")
        panels = figure.subplots(1, count, squeeze=False)[0]
        for axes, study in zip(panels, studies, strict=False):
            drawn(axes, study)
            axes.set_title(study["data"], fontsize="medium")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize="small")
        figure.savefig(path, metadata={"Date": None})
    return path


def figure_of(found: Mapping[str, Any]) -> str:
    """Which kind of figure a claim has."""
    from paper.claims import CLAIMS

    return CLAIMS[found["claim"]].figure


def curves(axes: Axes, study: Mapping[str, Any]) -> None:
    """The metric over total FLOPs, everything counted; bands are a standard deviation."""
    for index, arm in enumerate(study["arms"]):
        colour, values = COLOURS[index % len(COLOURS)], arm["curve"]
        x = [value / 1e12 for value in values["flops_full"]]
        dashes = "--" if arm["name"] == arm["baseline"] else "-"
        axes.plot(x, values["mean"], dashes, color=colour, label=arm["name"])
        low, high = (
            [mean + sign * std for mean, std in zip(values["mean"], values["std"], strict=True)]
            for sign in (-1, 1)
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ended(axes, arm, colour)
    before = any(arm["paid_once"] for arm in study["arms"])
    counted = "what was paid once before left out" if before else "everything counted"
    axes.set_xlabel(f"TFLOPs, {counted}")
    axes.set_ylabel(study["arms"][0]["metric"])


def ended(axes: Axes, arm: Mapping[str, Any], colour: str) -> None:
    """Where its follow-ups ended: a point where it had caught up, a cross of uniform at its
    FLOPs.
    """
    for again, mark, shade in (
        (arm["sooner"], "o", colour),
        (arm["equal_compute"], "x", COLOURS[0]),
    ):
        if again is not None:
            error = again["final"]["std"] or 0.0
            spent = again["flops"]["full"] / 1e12
            axes.errorbar([spent], [again["final"]["mean"]], yerr=error, fmt=mark, color=shade)


def actors(axes: Axes, study: Mapping[str, Any]) -> None:
    """The difference to uniform over what scoring costs, a line a criterion."""
    chosen = [arm for arm in study["arms"] if "criterion" in arm["about"]]
    for index, criterion in enumerate(dict.fromkeys(arm["about"]["criterion"] for arm in chosen)):
        own = [arm for arm in chosen if arm["about"]["criterion"] == criterion]
        own.sort(key=lambda arm: float(arm["relative_flops"]["full"]))
        x = [arm["relative_flops"]["full"] for arm in own]
        y = [arm["difference"]["mean"] for arm in own]
        errors = [arm["difference"]["std"] or 0.0 for arm in own]
        axes.errorbar(x, y, yerr=errors, marker="o", label=criterion, color=COLOURS[index + 1])
        beside = (7, -9) if index == 0 else (-7, 7)  # two criteria often meet in a point
        for arm, across, up in zip(own, x, y, strict=True):
            axes.annotate(
                arm["about"]["actor"],
                (across, up),
                xytext=beside,
                textcoords="offset points",
                horizontalalignment="left" if index == 0 else "right",
                fontsize="x-small",
            )
    axes.margins(x=0.22)
    axes.axhline(0.0, color=COLOURS[0], linestyle="--", label="uniform")
    axes.set_xlabel("total FLOPs over uniform's, everything counted")
    axes.set_ylabel(f"{study['arms'][0]['metric']}, less uniform's")


def budgets(axes: Axes, study: Mapping[str, Any]) -> None:
    """What every budget reached, and the laws through them."""
    for index, criterion in enumerate(
        dict.fromkeys(a["about"]["criterion"] for a in study["arms"])
    ):
        own = [arm for arm in study["arms"] if arm["about"]["criterion"] == criterion]
        x = [arm["flops"]["full"] / 1e12 for arm in own]
        y, errors = [arm["final"]["mean"] for arm in own], [arm["final"]["std"] or 0 for arm in own]
        colour = COLOURS[index]
        axes.errorbar(x, y, yerr=errors, fmt="o", color=colour, label=criterion)
        fit = study.get("fits", {}).get(criterion)
        if fit is not None:
            axes.plot([value / 1e12 for value in fit["x"]], fit["y"], color=colour)
    axes.set_xscale("log")
    spent = sorted({arm["flops"]["full"] / 1e12 for arm in study["arms"]})
    axes.set_xticks(spent, [f"{value:.2g}" for value in spent], fontsize="x-small")
    axes.minorticks_off()
    axes.set_xlabel("TFLOPs, everything counted")
    axes.set_ylabel(study["arms"][0]["metric"])


PANELS: Mapping[str, Callable[[Axes, Mapping[str, Any]], None]] = MappingProxyType(
    {"curves": curves, "actors": actors, "budgets": budgets}
)
"""How a panel of each kind of figure is drawn."""
