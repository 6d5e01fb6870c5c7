"""``superbatch order``: runs in, an order out."""

import json
from pathlib import Path

import numpy as np
import pytest

from superbatch.cli import guarded
from superbatch.orders import read_order
from superbatch.run import RunFolder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made_run(name, *ids, seed=0, finished=True):
    """A run of steps of two that chose these ids."""
    run = RunFolder(Path(name))
    steps = len(ids) // 2
    run.create({"recipe": "classact", "seed": seed, "steps": steps, "data": {}}, {})
    columns = {
        "step": np.repeat(np.arange(1, steps + 1, dtype=np.int32), 2),
        "id": np.array(ids),
        "draw": np.arange(len(ids)) * 3,
    }
    run.write_chosen(1, steps, columns, fingerprint="f00d")
    if finished:
        run.finish({})


@pytest.fixture
def order(capsys):
    """Runs the command; what it printed as JSON."""

    def numbers(*words):
        assert guarded("order", [*words, "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return numbers


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must be refused; its one message. No order is written."""

    def message(*words):
        there = sorted(tmp_path.rglob("*"))
        assert guarded("order", list(words)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("superbatch: ")
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == there
        return err

    return message


def test_a_replay_says_what_it_is(order, tmp_path):
    made_run("run", 5, 9, 5, 7)
    said = order("--run", "run", "--out", "o.parquet")
    path = tmp_path / "o.parquet"
    assert said == {
        "order": "o.parquet",
        "kind": "replay",
        "examples": 4,
        "distinct": 3,
        "most_often": 2,
        "fingerprint": "f00d",
        "runs": [{"name": "run", "recipe": "classact", "seed": 0, "steps": 2, "examples": 4}],
        "bytes": path.stat().st_size,
        "bytes_per_example": path.stat().st_size / 4,
    }
    assert read_order(path).ids.tolist() == [5, 9, 5, 7]
    assert read_order(path).draws.tolist() == [0, 3, 6, 9]


def test_a_policy_of_two_seeds_for_another_length(order, tmp_path):
    made_run("a", 5, 9, 5, 7)
    made_run("b", 5, 7, 9, 5, seed=1)
    runs = ["--run", "a", "--run", "b", "--kind", "policy"]
    assert order(*runs, "--out", "same.parquet")["examples"] == 4
    by_steps = order(*runs, "--out", "long.parquet", "--steps", "3", "--batch", "4")
    assert (by_steps["examples"], by_steps["most_often"]) == (12, 6)
    assert [run["seed"] for run in by_steps["runs"]] == [0, 1]
    order(*runs, "--out", "again.parquet", "--examples", "12")
    long, again = (read_order(tmp_path / f"{name}.parquet").ids for name in ("long", "again"))
    assert long.tolist() == again.tolist()


def test_a_person_is_told_how_to_go_on(capsys):
    made_run("run", 5, 9, 5, 7)
    assert guarded("order", ["--run", "run", "--out", "o.parquet"]) == 0
    said = capsys.readouterr().out
    assert "replay order of 4 examples from run: 3 distinct, none more than 2 times" in said
    assert "superbatch train uniform --data.order o.parquet" in said


def test_a_run_in_progress_is_taken_when_asked(order, refused):
    made_run("run", 5, 9, 5, 7, finished=False)
    said = refused("--run", "run", "--out", "o.parquet")
    assert "--resume run" in said
    assert "--allow-unfinished" in said
    assert order("--run", "run", "--out", "o.parquet", "--allow-unfinished")["examples"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out o", "order needs --run RUN"),
        ("--run run", "order needs --out ORDER"),
        ("--run nowhere --out o", "nowhere is not a run folder"),
        ("--run run --out run", "--out run exists"),
        (
            "--run run --run run --out o",
            "a replay is what one run did, whole, and 2 runs was given",
        ),
        ("--run run --out o --examples 9", "and --examples 9 was given; add --kind policy"),
        ("--run run --out o --kind policy --steps 9", "--steps and --batch; given were --steps 9"),
        (
            "--run run --out o --kind policy --steps 9 --batch 2 --examples 3",
            "given were --examples 3 --steps 9 --batch 2",
        ),
        ("--run run --out o --kind policy --examples 0", "--examples: Input should be"),
        ("--run empty --out o", "has no record of what it chose"),
    ],
)
def test_what_cannot_be_done_is_refused(words, message, refused, tmp_path):
    made_run("run", 5, 9, 5, 7)
    RunFolder(tmp_path / "empty").create({"recipe": "classact", "seed": 0, "steps": 1}, {})
    assert message in refused(*words.split())
