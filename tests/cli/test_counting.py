"""What is shown while examples are counted."""

import io

import pytest
from rich.console import Console

from superbatch.cli import counting as module
from superbatch.cli.counting import counting


@pytest.fixture
def shown(monkeypatch):
    """A maker of the console to be shown on, and what was written to it."""
    written = io.StringIO()

    def console(terminal):
        made = Console(file=written, force_terminal=terminal, width=100)
        monkeypatch.setattr(module, "Console", lambda stderr: made)
        return written

    return console


@pytest.mark.parametrize("terminal", [False, True])
def test_the_count_goes_on_from_what_was_done(shown, terminal):
    written = shown(terminal)
    with counting("scoring", 10, 4) as progress:
        progress(3)
        progress(3)
    assert "scoring" in written.getvalue()
    assert "10/10" in written.getvalue()
    assert "examples/s" in written.getvalue()


def test_nothing_is_shown_where_nothing_is_asked_for(shown):
    written = shown(True)
    with counting("scoring", 10, quiet=True) as progress:
        progress(10)
    assert written.getvalue() == ""
