"""What is printed: paths and names as they are, wherever the output goes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import TINY

from superbatch.cli import main


SLY = "a[/b] [red]c"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_paths_are_no_markup(capsys):
    long = "x" * 130  # a path that is broken cannot be copied
    run, table, ids = f"{SLY}/run-{long}", f"{SLY}/{long}.parquet", f"{SLY}/ids.txt"
    assert f"checkpoint {run}/checkpoints" in printed(
        capsys, "train", "uniform", *TINY, "--out", run
    )
    assert f"rows in {table}; left out" in printed(capsys, "score", "--model", run, "--out", table)
    assert f"table: {table}\n" in printed(capsys, "table", "show", table)
    assert f"in {ids}\n" in printed(
        capsys, "subset", "--table", table, "--fraction=0.5", "--out", ids
    )
    joined = f"{SLY}/joined-{long}.parquet"
    assert f"rows in {joined}: loss/a, loss/b" in printed(
        capsys, "table", "join", f"a={table}", f"b={table}", "--out", joined
    )
    said = printed(capsys, "compare", "uniform", "rs2", *TINY, "--out", f"{SLY}/both")
    assert f"run folder {SLY}/both/rs2-seed0\n" in said


def test_names_of_classes_are_no_markup(capsys):
    for number, name in enumerate(("[red]apple", "pear[b]")):
        Path("fruit", name).mkdir(parents=True)
        for place in range(8):
            pixels = np.full((8, 8), 16 * place + 100 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(Path("fruit", name, f"{place}.png"))
    data = ["--data.path=fruit", "--data.evaluation-fraction=0.5"]
    printed(capsys, "train", "uniform", *TINY, "--select.sub-batch-size=2", *data, "--out=run")
    said = printed(capsys, "evaluate", "run", "--data.path=fruit")
    assert "[red]apple" in said
    assert "pear[b]" in said


def ended(words, **options):
    return subprocess.run(
        [sys.executable, "-m", "superbatch", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["report", "run"],
        ["cost", "--learner=L/16", "--actor=Ti/16", "--beta=0.7"],
        ["train", "--help"],
    ],
)
def test_a_terminal_that_knows_ascii_only(words, capsys):
    if words[0] == "report":
        printed(capsys, "train", "uniform", *TINY, "--out=run")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = ended(words, stdout=subprocess.PIPE, env={**os.environ, **plain})
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("words", [[], ["--help"], ["cost", "--help"]])
def test_output_that_finds_no_room(words):
    with Path("/dev/full").open("w") as full:
        done = ended(words, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("superbatch: no space left on the device")
    assert done.stderr.count("\n") == 1
