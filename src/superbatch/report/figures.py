"""The main curve as figures for papers (extra ``[figures]``)."""

from pathlib import Path

import numpy as np

from superbatch.errors import ConfigError
from superbatch.files import writing
from superbatch.report.curves import AXES, recipe_curve
from superbatch.report.speedup import Comparison


COLOURS = ("#6f6d68", "#0072b2", "#d55e00", "#009e73", "#aa4499", "#a97a00", "#3a9bd8", "#882255")


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """The metric over updates and over FLOPs (full) as SVG and PDF in ``folder``.

    Lines are means over seeds, bands one standard deviation; smoothed where the comparison is.

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: the disk refuses.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ConfigError("figures need matplotlib: pip install 'superbatch[figures]'") from error
    written = []
    # Text stays text in both formats, and no date goes in: the same runs give the same files.
    with (
        writing(folder),
        rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "superbatch"}),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for axis in ("step", "flops/full"):
            for kind in ("svg", "pdf"):
                name = f"{comparison.metric}-over-{axis}".replace("/", "-")
                path = folder / f"{name}.{kind}"
                _write(comparison, axis, path)
                written.append(path)
    return written


def _write(comparison: Comparison, axis: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for index, summary in enumerate(comparison.summaries):
        runs = [result.run for result in comparison.results if result.recipe == summary.recipe]
        curve = recipe_curve(runs, comparison.metric, comparison.smooth)
        if curve is None or axis not in curve.mean.x:
            continue
        smooth = comparison.smooth > 1
        mean = curve.mean.smooth if smooth else curve.mean.raw
        std = curve.mean.smooth_std if smooth else curve.mean.raw_std
        colour = COLOURS[index % len(COLOURS)]
        dashes = "--" if summary.is_baseline else "-"
        axes.plot(curve.mean.x[axis], mean, dashes, color=colour, label=_literal(summary.recipe))
        if np.any(std > 0):
            axes.fill_between(
                curve.mean.x[axis], mean - std, mean + std, color=colour, alpha=0.15, linewidth=0
            )
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel(_literal(comparison.metric))
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    no_date = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    figure.savefig(path, metadata=no_date)


def _literal(text: str) -> str:
    """``text`` as it is: to matplotlib ``$`` begins a formula, and ``_`` a label to leave out."""
    literal = text.replace("$", r"\$")
    return f" {literal}" if literal.startswith("_") else literal
