"""What a person sees while a run goes on, and when it is done."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from superbatch import launch
from superbatch.cli.output import console, say
from superbatch.prefixes import si
from superbatch.run import RunFolder
from superbatch.surroundings import Status, Surroundings


def described(numbers: Mapping[str, Any]) -> str:
    """The numbers that matter, in a line."""
    parts = []
    if numbers.get("learner/loss") is not None:
        parts.append(f"loss {numbers['learner/loss']:.3f}")
    for name, word in HEADLINES.items():
        if numbers.get(name) is not None:
            parts.append(f"{word} {numbers[name]:.3f}")
    if numbers.get("examples_seen"):
        kept = numbers["examples_learned"] / numbers["examples_seen"]
        parts.append(f"kept {kept:.0%}")
    if "flops/full" in numbers:
        parts.append(f"{si(numbers['flops/full'], 'FLOPs')}")
    if "plan/seconds_left" in numbers:
        parts.append(f"all runs {numbers['plan/seconds_left'] / 60:.1f} min left")
    return " · ".join(parts)


HEADLINES = {"val/accuracy": "accuracy", "val/mean_recall": "mean recall"}
"""The number that matters most of each kind of evaluation, and what it is called."""


class Bars:
    """A live bar for each run on a terminal; a line now and then where output is a file."""

    seconds_between_lines = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._headlines: dict[str, dict[str, float]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}
        self._said = 0.0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
        )

    def watch(self, status: Status) -> None:
        """Show ``status``."""
        now = time.monotonic()
        if status.step < self._last.get(status.title, 0):
            del self._started[status.title]  # the next thing of that name, such as a second set
        self._last[status.title] = status.step
        began, first = self._started.setdefault(status.title, (now, status.step))
        rate = (status.step - first) / (now - began) if now > began else 0.0
        numbers = dict(status.numbers)
        headline = {name: numbers[name] for name in HEADLINES if name in numbers}
        if headline:
            self._headlines[status.title] = headline
        numbers |= self._headlines.get(status.title, {})
        speed = f"{rate:.1f} {status.unit}/s" if rate else ""
        is_step = status.unit == "steps"
        if self._console.is_terminal:
            self._bar(status, speed, described(numbers))
        elif not is_step and now - began < self.seconds_between_lines:
            pass  # what is soon done needs no line
        elif now - self._said > self.seconds_between_lines or status.step == status.steps:
            self._said = now
            left = f"{(status.steps - status.step) / rate:.0f} s left" if rate else ""
            place = f"{status.step}/{status.steps}"
            line = "  ".join(filter(None, (status.title, place, speed, left, described(numbers))))
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _bar(self, status: Status, speed: str, text: str) -> None:
        if status.title not in self._tasks:
            self._progress.start()
            self._tasks[status.title] = self._progress.add_task(
                status.title, total=status.steps, rate="", text=""
            )
        task = self._tasks[status.title]
        self._progress.update(
            task, completed=status.step, total=status.steps, rate=speed, text=text
        )

    def stop(self) -> None:
        """Leave the bars as they stand."""
        if self._tasks:
            self._progress.stop()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within: the first Ctrl-C or SIGTERM only sets the flag that is given; the next one ends."""
    asked, here = False, os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if os.getpid() != here:
            return  # a loader's worker, forked from here: it reads on until its starter ends
        if asked:
            raise KeyboardInterrupt
        asked = True
        if launch.first():
            print("stopping after this step, with a checkpoint ...", file=sys.stderr)

    before = {which: signal.signal(which, ask) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@contextmanager
def watched(*, quiet: bool, references: Path | None = None) -> Iterator[Surroundings]:
    """Surroundings with progress on the error stream, and a checkpoint at Ctrl-C or SIGTERM.

    What else speaks within, as Ray does of a host that died, does so on the error stream too:
    the output is the result.
    """
    bars = Bars(Console(stderr=True))
    with stop_signals() as stop, redirect_stdout(sys.stderr):
        around = Surroundings(stop=stop, references=references)
        try:
            yield around if quiet else replace(around, watch=bars.watch)
        finally:
            bars.stop()


def show_summary(summary: Mapping[str, Any]) -> None:
    """What a run came to and what it cost, as its last lines."""
    found = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in summary["val"].items()
        if isinstance(value, float)
    )
    say(
        f"\n{summary['recipe']} (seed {summary['seed']}): {found}, after {summary['steps']} updates"
    )
    console().print(costs(summary))
    for note in notes(summary):
        say(note)
    say(f"checkpoint {summary['checkpoint']}")


def costs(summary: Mapping[str, Any]) -> Table:
    """FLOPs by role and kind, seconds by phase, and both totals."""
    flops, seconds = summary["flops"], dict(summary["seconds"]["by_phase"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("FLOPs")
    table.add_column("", justify="right")
    table.add_column("   seconds")
    table.add_column("", justify="right")
    left = [
        (f"{role}, {kind}", si(value))
        for role, kinds in sorted(flops["by_role"].items())
        for kind, value in kinds.items()
        if value
    ]
    left += [("paper's accounting", si(flops["paper"])), ("full accounting", si(flops["full"]))]
    right = [(phase, f"{value:.1f}") for phase, value in seconds.items()]
    right.append(("total", f"{summary['seconds']['total']:.1f}"))
    for place in range(max(len(left), len(right))):
        cells = left[place] if place < len(left) else ("", "")
        more = right[place] if place < len(right) else ("", "")
        table.add_row(*cells, f"   {more[0]}", more[1])
    return table


DIVERGED = (
    "the learner's loss is not a number any more: it has diverged; try a lower "
    "--optimise.learning-rate"
)


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader should know besides: clean shares, bad data and scores, the reference."""
    lines = []
    selection = summary["selection"]
    if selection.get("clean_share_pool", 1.0) < 1:  # at 1 none is known to be wrong
        lines.append(
            f"true labels or captions: {selection['clean_share']:.3f} of the chosen, "
            f"{selection['clean_share_pool']:.3f} of all that were seen"
        )
    folder = RunFolder(Path(summary["checkpoint"]).parents[1])
    if folder.diverged():
        lines.append(DIVERGED)
    if selection["non_finite_scores"]:
        lines.append(f"{selection['non_finite_scores']} scores were not finite and never chosen")
    lost = (summary.get("actors") or {}).get("actors/lost", 0)
    if lost:
        lines.append(
            f"{lost} actors died or hung and were replaced; what they held was scored again"
        )
    left_out = [f"{count} x {reason}" for reason, count in summary.get("left_out", {}).items()]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    if summary["skipped_images"]:
        lines.append(f"{summary['skipped_images']} broken images were skipped")
    reference = summary["reference"]
    if reference and reference.get("given"):
        given = reference.get("checkpoint") or reference["table"]
        lines.append(f"reference given: {given} (its training is not counted)")
    return lines
