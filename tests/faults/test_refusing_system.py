"""What the system refuses, permission first of all, is a sentence with the file and the reason."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superbatch.cli import main


TINY = [
    "--steps=2",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
]

TOLD = """
import sys
from superbatch.cli import main
for line in open(sys.argv[1]):
    print(main(line.split()), flush=True)
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_permission(commands):
    """Exit code and last message of each command, of a user that file modes hold for."""
    Path("commands.txt").write_text("\n".join(commands))
    words = [sys.executable, "-c", TOLD, "commands.txt"]
    if os.geteuid() == 0:  # modes do not hold for root, but for a capability that it can give away
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything here")
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr, ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith("superbatch: ")]
    return list(zip(map(int, ran.stdout.split()), said, strict=True))


@pytest.mark.slow
def test_what_must_not_be_read_or_written_is_named(trained_and_scored):
    table, order = trained_and_scored
    cases = {
        "evaluate weights.safetensors": "cannot read weights.safetensors: Permission denied",
        "table show losses.parquet": "cannot read losses.parquet: Permission denied",
        "train uniform --data.order order.parquet": "cannot read order.parquet: Permission denied",
        "train uniform --data.path images.npz": "cannot read images.npz: Permission denied",
        "train --config settings.json": "settings.json: Permission denied",
        "train --resume run": "run/summary.json: Permission denied",
        "report run": "run/summary.json: Permission denied",
        "train uniform --out locked/run": "locked/run",
    }
    for name in ("settings.json", "images.npz"):
        Path(name).write_text("{}")
    shutil.copy("run/checkpoints/learner.safetensors", "weights.safetensors")
    for name in ("weights.safetensors", table, order, "settings.json", "images.npz"):
        Path(name).chmod(0)
    Path("run/summary.json").chmod(0)
    Path("locked").mkdir(mode=0o500)
    for (code, said), words in zip(without_permission(cases), cases, strict=True):
        assert (code, cases[words] in said) == (2, True), (words, said)
        assert "Permission denied" in said


@pytest.fixture
def trained_and_scored(capsys):
    """A finished run in ``run``, a table by its model and an order made of it."""
    assert main(["train", "uniform", *TINY, "--out=run"]) == 0
    assert main(["score", "--model=run", "--out=losses.parquet"]) == 0
    assert main(["order", "--run=run", "--out=order.parquet"]) == 0
    capsys.readouterr()
    return "losses.parquet", "order.parquet"


LONG = "x" * 300
PLOT = ["--beta=0.7", f"--plot={LONG}.svg"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "uniform", f"--out={LONG}"], "File name too long"),
        (["train", "uniform", f"--data.path={LONG}"], "File name too long"),
        (["train", "--config", LONG], "File name too long"),
        (["train", "--resume", LONG], "File name too long"),
        (["evaluate", LONG], "File name too long"),
        (["report", LONG], "File name too long"),
        (["compare", "uniform", "rs2", f"--out={LONG}"], "File name too long"),
        (["compare", "uniform", "rs2", "--out=file/x"], "file/x/plan.json: Not a directory"),
        (["subset", f"--table={LONG}", "--out=a", "--fraction=1"], "File name too long"),
        (["cost", "--learner=L/16", "--actor=Ti/16", *PLOT], "File name too long"),
    ],
)
def test_paths_that_cannot_be(words, said, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err.replace("\n", "")
    assert "Traceback" not in err
    assert (tmp_path / "file").read_text() == "mine"


def test_figures_where_a_file_is(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["train", "uniform", *TINY, "--out=run"]) == 0
    (tmp_path / "file").write_text("mine")
    capsys.readouterr()
    assert main(["report", "run", "--figures=file/figures"]) == 2
    assert "superbatch: cannot write file/figures: Not a directory" in capsys.readouterr().err
    assert main(["report", "run", "--figures=file"]) == 2
    assert "superbatch: cannot write file: File exists" in capsys.readouterr().err


def test_an_error_that_is_not_of_the_system_is_not_hidden(monkeypatch):
    def fails(words):
        raise OSError("a mistake of ours")

    monkeypatch.setattr("superbatch.cli.cost.run", fails)
    with pytest.raises(OSError, match="a mistake of ours"):
        main(["cost"])
