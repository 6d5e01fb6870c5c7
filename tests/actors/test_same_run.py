"""A run whose super-batches are scored elsewhere, against the same run in one process."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from superbatch import training
from superbatch.errors import Stopped
from superbatch.recipes import recipe
from superbatch.surroundings import Surroundings


TINY = "mu-2400/4"
KINDS = ["process", "ray"]
"""The kinds of actors elsewhere; see test_conformance.py."""


@pytest.fixture(autouse=True)
def hosts_of(request):
    """Ray's, where it is to score."""
    if request.node.callspec.params["kind"] == "ray":
        request.getfixturevalue("ray_hosts")


REPLAY = {
    "bank_examples": 110,
    "bank_minimum": 64,
    "samples_per_insert": 0.8,
    "max_staleness": 1,
    "when_stale": "rescore",
    "keep_examples": False,
}


def config(name, out, **sections):
    base = recipe(name).changed(
        steps=12,
        seed=3,
        out=str(out),
        device="cpu",
        models={"learner": TINY, "online": TINY, "reference": TINY},
        reference_training={"steps": 4},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        data={"flip": True, "crop_padding": 1, "label_noise": 0.2},
        record={"log_every": 1, "evaluate_every": 6, "checkpoint_every": 4},
    )
    return base.changed(**sections)


def in_step(kind, **more):
    return {"kind": kind, "max_staleness": 0} | more


def table(folder, name):
    return pa.concat_tables([pq.read_table(part) for part in sorted((folder / name).glob("*"))])


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_for_all(row):
    """What does not say how long something took, or who scored."""
    return {name: v for name, v in row.items() if not name.startswith(("seconds", "actors/"))}


def outcome(folder):
    """Everything a run leaves that is not a time or a path."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("checkpoint", "reference", "seconds", "actors"):
        summary.pop(name)
    weights = {
        path.name: {name: value.tolist() for name, value in load_file(path).items()}
        for path in (folder / "checkpoints").glob("*.safetensors")
    }
    return {
        "metrics": list(map(same_for_all, metrics(folder))),
        "selection": table(folder, "selection").to_pydict(),
        "chosen": table(folder, "chosen").to_pydict(),
        "summary": summary,
        "weights": weights,
    }


RUNS = [
    ("classact", {}),
    ("classact", {"score_view": "plain", "select": {"bank_super_batches": 3}}),
    ("classact", {"select": REPLAY}),
    ("classact_online", {"reference_training": {"batch_multiple": 2}}),
    ("classact_online", {"models": {"dropout": 0.3}, "data": {"workers": 1}}),
    ("rho_loss", {"optimise": {"ema_decay": 0.9}}),
    ("uniform", {}),
]


@pytest.mark.parametrize(
    ("kind", "name", "sections"),
    # What a super-batch is scored with is the actor's business, and not of what carries it there.
    [("process", *run) for run in RUNS] + [("ray", *RUNS[0]), ("ray", *RUNS[3])],
)
def test_in_step_it_is_the_same_run(kind, name, sections, tmp_path):
    training.start(config(name, tmp_path / "here", **sections))
    training.start(config(name, tmp_path / "there", **sections, actors=in_step(kind)))
    here, there = outcome(tmp_path / "here"), outcome(tmp_path / "there")
    assert there.keys() == here.keys()
    for part, value in here.items():
        assert there[part] == value, part


@pytest.mark.parametrize("kind", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_kind_writes_lines_of_the_same_keys(kind, tmp_path):
    settings = {"steps": 3, "record": {"log_every": 1, "evaluate_every": 2}}
    training.start(config("classact_online", tmp_path / "here", **settings))
    actors = {"kind": kind}
    training.start(config("classact_online", tmp_path / "there", **settings, actors=actors))
    here, there = (list(map(list, metrics(tmp_path / name))) for name in ("here", "there"))
    assert here == there
    assert {"actors/count", "actors/lost", "actors/super_batches_per_second"} <= set(here[0])
    assert "val/accuracy" in here[1]


@pytest.mark.parametrize("kind", KINDS[:1])
@pytest.mark.parametrize("name", ["classact", "classact_online"])
def test_it_goes_on_where_it_was_stopped(kind, name, tmp_path):
    bank = {"select": {"bank_super_batches": 3, "temperature": 0.5}}
    training.start(config(name, tmp_path / "through", **bank))
    asked = iter(range(1, 100))
    with pytest.raises(Stopped):
        training.start(
            config(name, tmp_path / "stopped", **bank, actors=in_step(kind)),
            Surroundings(stop=lambda: next(asked) == 7),
        )
    training.resume(tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "through")


@pytest.mark.parametrize("kind", KINDS)
def test_ahead_of_the_learner_it_does_the_same_work(kind, tmp_path):
    here = training.start(config("classact", tmp_path / "here", steps=30))
    ahead = {"kind": kind, "count": 2, "max_staleness": 3}
    there = training.start(config("classact", tmp_path / "there", steps=30, actors=ahead))
    assert there["flops"] == here["flops"]
    assert there["examples_seen"] == here["examples_seen"]
    rows = metrics(tmp_path / "there")
    staleness = [row["selection/staleness"] for row in rows]
    assert max(staleness) <= 3
    assert sum(staleness) > 0
    seen = [table(tmp_path / name, "selection").column("id") for name in ("here", "there")]
    assert seen[0] == seen[1]  # each super-batch once, in the same order
    assert rows[-1]["actors/super_batches_per_second"] > 0
    assert there["seconds"]["by_phase"].keys() >= {"starting", "waiting", "publication"}
    assert "scoring" not in there["seconds"]["by_phase"]
