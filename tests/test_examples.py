"""The examples run, as written."""

import runpy
from pathlib import Path


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_algorithm_1_learns(capsys):
    parts = runpy.run_path(str(EXAMPLES / "algorithm_1.py"))
    last = parts["main"]()
    assert last < 2.0  # it starts at ln 10 = 2.3
    assert "FLOPs by eq. 5" in capsys.readouterr().out
