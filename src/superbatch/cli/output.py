"""Where results are printed."""

import sys

from rich.console import Console


def console() -> Console:
    """Standard output; wide enough for our tables where it is a file."""
    return Console() if sys.stdout.isatty() else Console(width=120)
