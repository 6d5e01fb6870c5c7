"""The answer of ``superbatch cost`` as tables for a terminal and as a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from superbatch.cli.output import console
from superbatch.errors import ConfigError


_BAR_WIDTH = 16

_TERMS: Mapping[str, str] = {
    "learner": "learner's updates",
    "scoring_learner": "scoring by the learner",
    "scoring_online": "scoring by the online model",
    "scoring_reference": "scoring by the reference",
    "online_updates": "online model's updates",
    "reference_training": "reference's training",
    "reused": "forward passes used twice",
}


def show(answer: Mapping[str, Any], *, with_devices: bool) -> None:
    """Print every term in both accountings, the verdict, and the actor sizes."""
    out = console()
    out.print(terms_table(answer, "Cost in FLOPs, uniform training = 1"))
    if "measured" in answer:
        out.print(terms_table(answer["measured"], "Cost in seconds on this device, uniform = 1"))
    out.print(verdict_sentence(answer))
    if "measured" in answer:
        out.print(f"In seconds on this device: {answer['measured']['verdict']}.")
    if with_devices:
        out.print(devices_sentence(answer["scoring_devices"]))
    if answer["actors"]:
        out.print(actors_table(answer["actors"], answer["beta"]))
    if any("reported_speedup" in row for row in answer["actors"]):
        out.print(reported_sentence(answer["actors"]))


def terms_table(answer: Mapping[str, Any], title: str) -> Table:
    """Every term that is not zero, then what they come to."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("paper (eq. 5)", justify="right")
    table.add_column("full", justify="right")
    for term, words in _TERMS.items():
        values = answer["terms"][term]
        if any(values.values()):
            table.add_row(words, *(f"{values[name]:.4f}" for name in ("paper", "full")))
    table.add_section()
    for key, words, pattern in (
        ("relative_cost", "together", "{:.4f}"),
        ("saving", "saving", "{:+.1%}"),
        ("break_even_beta", "break-even beta", "{:.4f}"),
    ):
        values = [pattern.format(answer[name][key]) for name in ("paper", "full")]
        table.add_row(words, *values, style="bold")
    return table


def verdict_sentence(answer: Mapping[str, Any]) -> str:
    """The answer in words; the full accounting decides, the paper's is said where it differs."""
    saving, paper_saving = answer["full"]["saving"], answer["paper"]["saving"]
    break_even = answer["full"]["break_even_beta"]
    words = (
        f"{answer['verdict'].capitalize()}: at beta = {answer['beta']:.4g} training costs "
        f"{_more_or_less(saving)} than uniform, everything counted "
        f"({_more_or_less(paper_saving)} in the paper's accounting). "
    )
    if break_even == 0:
        return words + "No beta pays: the reference alone costs as much as uniform training."
    return words + (
        f"It pays below beta = {break_even:.3f}, that is, once selection saves more than "
        f"{1 - break_even:.1%} of the learner's updates."
    )


def devices_sentence(devices: float) -> str:
    """The asynchronous view."""
    if devices == 0:
        return "Nothing runs for scoring."
    return (
        f"Asynchronously, scoring takes {devices:.3g} devices of the learner's kind for each that "
        f"trains the learner: one such device keeps {1 / devices:.3g} busy."
    )


def actors_table(actors: Sequence[Mapping[str, Any]], beta: float) -> Table:
    """The plan over sizes of the scoring models, each at the same beta."""
    table = Table(title=f"Actor sizes, all at beta = {beta:.4g}", title_justify="left")
    table.add_column("actor", no_wrap=True)
    table.add_column("cheaper by", justify="right")
    table.add_column("saving, paper", justify="right")
    table.add_column("full", justify="right")
    table.add_column("", min_width=_BAR_WIDTH, no_wrap=True)
    table.add_column("pays above a speed-up of", justify="right")
    scale = max(abs(row["full"]["saving"]) for row in actors) or 1.0
    for row in actors:
        table.add_row(
            escape(row["actor"]),
            f"{row['times_cheaper']:.4g}",
            f"{row['paper']['saving']:+.1%}",
            f"{row['full']['saving']:+.1%}",
            bar(row["full"]["saving"] / scale),
            f"{1 - row['full']['break_even_beta']:.1%}" if row["full"]["break_even_beta"] else "-",
        )
    return table


def reported_sentence(actors: Sequence[Mapping[str, Any]]) -> str:
    """What the speed-ups that the paper measured would save."""
    reported = [
        f"{_more_or_less(row['reported_saving']['full'])} with {row['actor']} "
        f"({row['reported_speedup']:.0%})"
        for row in actors
        if "reported_speedup" in row
    ]
    return f"At the speed-ups that the paper reports, training costs {', '.join(reported)}."


def bar(share: float) -> str:
    """A bar for ``share`` in [-1, 1]: green to save, red to lose."""
    colour = "green" if share > 0 else "red"
    return f"[{colour}]{'█' * max(1, round(abs(share) * _BAR_WIDTH))}[/]" if share else ""


def _more_or_less(saving: float) -> str:
    return f"{abs(saving):.1%} {'less' if saving > 0 else 'more'}"


def draw(answer: Mapping[str, Any], path: Path) -> None:
    """The saving over actor sizes in both accountings, as .svg, .png or .pdf.

    Raises ``ConfigError`` for any other suffix, without matplotlib, and for a path that cannot be
    written.
    """
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"--plot {path}: the suffix must be .svg, .png or .pdf")
    if not answer["actors"]:
        raise ConfigError("--plot has no actor sizes to draw: no named size is below the learner's")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install 'superbatch[figures]'"
        ) from error
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    savings, needed = figure.subplots(1, 2)
    cheaper = [row["times_cheaper"] for row in answer["actors"]]
    for name, style in (("full", "o-"), ("paper", "o--")):
        of_size = [row[name] for row in answer["actors"]]
        savings.plot(cheaper, [100 * size["saving"] for size in of_size], style, label=name)
        speedups = [100 * (1 - size["break_even_beta"]) for size in of_size]
        needed.plot(cheaper, speedups, style, label=name)
        for row, speedup in zip(answer["actors"], speedups, strict=True):
            if name == "full":
                label = row["actor"].split("/")[0]
                needed.annotate(label, (row["times_cheaper"], speedup + 2), rotation=60)
    measured = [row for row in answer["actors"] if "reported_speedup" in row]
    at = [row["times_cheaper"] for row in measured]
    if measured:
        needed.plot(at, [100 * row["reported_speedup"] for row in measured], "k*", label="reported")
        saved = [100 * row["reported_saving"]["full"] for row in measured]
        savings.plot(at, saved, "k*", label="full, at the\nspeed-up reported")
    savings.axhline(0, color="grey", linewidth=0.8)
    savings.set_title(f"compute saved at beta = {answer['beta']:.4g} (%)")
    needed.set_title("learner speed-up above which it pays (%)")
    for axes in (savings, needed):
        axes.set_xscale("log")
        axes.margins(y=0.12)
        axes.set_xlabel("learner's cost / actor's cost")
        axes.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--plot {path} cannot be written: {error.strerror}") from error
