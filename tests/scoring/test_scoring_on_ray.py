"""Scoring by the actors of a Ray cluster: the same blocks as one process, whatever is killed."""

import json
from functools import partial

import pyarrow.parquet as pq
import pytest
from scripted_job import scripted_job

from superbatch.checkpoint import save_weights
from superbatch.cli import main
from superbatch.config import RaySettings
from superbatch.errors import DataError, RunError
from superbatch.models.build import build_model
from superbatch.scoring import Parts, score


HALF = RaySettings(cpus=0.5)


@pytest.fixture
def on_ray(ray_hosts, tmp_path):
    """Scores a scripted job with two actors; where its parts are, and what was told of rows."""
    from superbatch.scoring.cluster import score_on_ray

    def run(numbers=tuple(range(7))):
        parts, told = Parts(tmp_path / "parts"), []
        parts.folder.mkdir(exist_ok=True)
        setup = partial(scripted_job, tmp_path)
        score_on_ray(setup, parts, numbers, count=2, progress=told.append, settings=HALF)
        return parts, told

    return run


def same(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_an_actor_killed_in_the_middle_of_a_block_changes_nothing(on_ray, tmp_path):
    whole = Parts(tmp_path / "whole")
    whole.folder.mkdir()
    score(scripted_job(tmp_path), whole, range(7), lambda rows: None)
    (tmp_path / "63").write_text("die")  # the second batch of three of the third block
    parts, told = on_ray()
    assert not (tmp_path / "63").exists()
    assert sum(told) == 50  # what was half scored is not counted
    assert len(told) == 7
    same(parts.folder, whole.folder)


@pytest.mark.slow
def test_a_block_that_always_kills_ends_the_work_and_finished_ones_stay(on_ray, tmp_path):
    (tmp_path / "27").write_text("die always")  # in the second block
    with pytest.raises(RunError, match=r"block 1 lost its actor 3 times .* the same command"):
        on_ray((0, 1))
    assert Parts(tmp_path / "parts").left(2) == [1]


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        ("refuse", DataError, r"^an image is no image$"),
        ("crash", RunError, r"(?s)while it scored block 0:.*Traceback.*a bad number"),
    ],
)
def test_what_an_actor_meets_is_said(on_ray, tmp_path, order, error, message):
    (tmp_path / "3").write_text(order)
    with pytest.raises(error, match=message):
        on_ray((0,))


@pytest.mark.slow
def test_the_command_makes_the_table_of_one_process(apart, tmp_path, monkeypatch, capsys):
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    about = {"task": "classification", "model": "mu-2400/4", "image_size": 8}
    about |= {"channels": 1, "classes": 10}
    save_weights(tmp_path / "m.safetensors", model.state_dict(), about)
    monkeypatch.chdir(tmp_path)  # and not where the cluster was started
    words = ["score", "--model", "m.safetensors", "--block-size", "600", "--json", "--out"]
    on_hosts = ["--actors.kind", "ray", "--actors.count", "2", "--ray.address", apart.address]
    assert main([*words, "here.parquet"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert main([*words, "there.parquet", *on_hosts]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["fingerprint"] == here["fingerprint"]
    tables = [pq.read_table(name).to_pydict() for name in ("here.parquet", "there.parquet")]
    assert tables[0] == tables[1]
    assert len(tables[0]["id"]) == 1797
