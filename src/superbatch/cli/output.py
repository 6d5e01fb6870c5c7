"""Where results are printed."""

import sys

from rich.console import Console


def console() -> Console:
    """Standard output; wide enough for our tables where it is a file."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def say(line: str) -> None:
    """Print plain words, in which paths and names mean no markup and are not broken."""
    console().print(line, highlight=False, markup=False, soft_wrap=True)
