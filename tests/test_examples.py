"""The examples run, as written."""

import runpy
from pathlib import Path


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_algorithm_1_learns(capsys):
    parts = runpy.run_path(str(EXAMPLES / "algorithm_1.py"))
    last = parts["main"]()
    assert last < 2.0  # it starts at ln 10 = 2.3
    assert "FLOPs by eq. 5" in capsys.readouterr().out


def test_the_plain_loop_learns_from_half(capsys):
    metrics = runpy.run_path(str(EXAMPLES / "pytorch_loop.py"))["main"]()
    assert (metrics["seen"], metrics["kept"]) == (2514, 1258)
    assert "kept_gain" in capsys.readouterr().out


def test_a_plain_loop_selects_and_goes_on_from_its_checkpoint(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "plain_pytorch.py"))["main"]
    whole = main()
    assert [len(ids) for ids in whole] == [32] * 40
    begun = main(tmp_path / "c.pt", steps=25)
    assert begun + main(tmp_path / "c.pt", steps=40) == whole
    assert "'seen': 2560, 'kept': 1280" in capsys.readouterr().out
