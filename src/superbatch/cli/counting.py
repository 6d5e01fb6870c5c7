"""How far a count of examples is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting(
    title: str, total: int, done: int = 0, *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Within: call what is given with how many more are done. ``done`` were before this began.

    Shows rate and time left on the error stream, of this session only; nothing if ``quiet``.
    """
    console = Console(stderr=True)
    if quiet:
        yield lambda more: None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=total, completed=done, rate="")
            tell = _Rate(done, total)

            def show(more: int) -> None:
                bar.update(task, advance=more, rate=tell(more))

            yield show
    else:
        tell = _Rate(done, total)
        said = time.monotonic()

        def say(more: int) -> None:
            nonlocal said
            rate = tell(more)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES or tell.done == total:
                said = time.monotonic()
                line = f"{title}  {tell.done}/{total}  {rate}  {tell.left:.0f} s left"
                console.print(line, highlight=False, soft_wrap=True)

        yield say


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )


class _Rate:
    """Examples a second since this was made, and the seconds that are left at that rate."""

    def __init__(self, done: int, total: int) -> None:
        self.done = done
        self.left = float("inf")
        self._first = done
        self._total = total
        self._began = time.monotonic()

    def __call__(self, more: int) -> str:
        self.done += more
        rate = (self.done - self._first) / max(time.monotonic() - self._began, 1e-9)
        self.left = (self._total - self.done) / max(rate, 1e-9)
        return f"{rate:,.0f} examples/s"
