"""Runs whose bank is more than one super-batch: what they score, choose and pay."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from superbatch import training
from superbatch.checks import check
from superbatch.errors import ConfigError
from superbatch.flops import forward_flops
from superbatch.models.build import build_model
from superbatch.recipes import recipe
from superbatch.report.read import read_run
from superbatch.report.selection import read_choices


TINY = {"learner": "mu-1000/4", "online": "mu-2400/4", "reference": "mu-2400/4"}
PRICE = {
    role: forward_flops(
        build_model(size, image_size=8, channels=1, classes=10, seed=0),
        torch.empty(1, 1, 8, 8, device="meta"),
    )
    for role, size in TINY.items()
}


def tiny(name, out, *, select=None, **sections):
    config = recipe(name).changed(
        steps=6,
        seed=3,
        out=str(out),
        models=TINY,
        select={"super_batch_size": 32, "sub_batch_size": 16, **(select or {})},
        data={"flip": True, "crop_padding": 1},
        record={"log_every": 1, "evaluate_every": 100, "checkpoint_every": 4},
    )
    return config.changed(**sections)


def metrics(run, name):
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()]


def selection(run):
    parts = sorted((run / "selection").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def columns(run):
    """Of the recorded selection; a loss that is not known is NaN."""
    table = selection(run)
    return {name: table[name].to_numpy() for name in table.column_names}


def test_scored_every_second_step_at_half_the_scoring(tmp_path):
    """A super-batch of 32 gives two sub-batches of 16: scored in steps 1, 3, 5."""
    settings = tiny("hard", tmp_path / "run", select={"samples_per_insert": 1.0})
    # A part of the record for each step: also of those in which nothing was scored.
    summary = training.start(settings.changed(record={"checkpoint_every": 1}))
    assert metrics(tmp_path / "run", "examples_seen") == [32, 32, 64, 64, 96, 96]
    assert metrics(tmp_path / "run", "selection/staleness") == [0, 1, 0, 1, 0, 1]
    assert metrics(tmp_path / "run", "selection/staleness_max") == [0, 1, 0, 1, 0, 1]
    learner, online = PRICE["learner"], PRICE["online"]
    assert summary["flops"]["paper"] == 3 * 96 * learner + 3 * 32 * online
    assert summary["flops"]["full"] == 3 * 96 * learner + (3 * 32 + 3 * 96) * online
    assert summary["examples_learned"] == 96
    # Every one of 96 was learned once; what was drawn later stands there without its losses.
    rows = columns(tmp_path / "run")
    old = np.isnan(rows["loss/online"])
    assert sorted(rows["id"][rows["chosen"]]) == sorted(rows["id"][~old])
    assert np.bincount(rows["step"][rows["chosen"]]).tolist() == [0] + [16] * 6
    assert np.unique(rows["step"][old]).tolist() == [2, 4, 6]
    told = read_choices(read_run(tmp_path / "run"))
    assert told.seen.tolist() == told.chosen.tolist() == [1] * 96


def test_what_is_scored_again_is_paid_for_and_scored_with_the_weights_of_now(tmp_path):
    """Two super-batches, bound 0: before draw 2 the 16 left are scored again, before 3 what is."""
    select = {"bank_super_batches": 2, "max_staleness": 0, "when_stale": "rescore"}
    run = tmp_path / "run"
    summary = training.start(tiny("hard", run, select=select, steps=3))
    rows = columns(run)
    old = np.isnan(rows["loss/online"])
    second = (rows["step"] == 2) & ~old
    left = 32 - int(rows["chosen"][second].sum())
    scored = 3 * 32 + 16 + left
    assert summary["flops"]["by_role"]["online"]["score"] == scored * PRICE["online"]
    assert summary["examples_seen"] == 96
    assert metrics(run, "selection/staleness_max") == [0, 0, 0]
    # The score that an older example is drawn by is not the one it came with.
    first = rows["step"] == 1
    came_with = dict(zip(rows["id"][first], rows["score"][first], strict=True))
    again = (rows["step"] == 2) & old
    assert again.any()
    for example, score in zip(rows["id"][again], rows["score"][again], strict=True):
        assert score != came_with[example]


@pytest.mark.parametrize("when", ["drop", "rescore"])
def test_read_again_or_kept_is_the_same_run(when, tmp_path):
    select = {"bank_super_batches": 3, "max_staleness": 1, "when_stale": when}
    for name, keep in (("kept", True), ("read", False)):
        config = tiny("classact", tmp_path / name, select=select | {"keep_examples": keep})
        training.start(config.changed(reference_training={"steps": 3}))
    runs = [tmp_path / "kept", tmp_path / "read"]
    kept, read = (load_file(run / "checkpoints" / "learner.safetensors") for run in runs)
    assert all(torch.equal(kept[name], read[name]) for name in kept)
    assert selection(runs[0]).equals(selection(runs[1]))
    assert max(metrics(runs[0], "selection/staleness_max")) == 1


@pytest.mark.parametrize(
    ("name", "select", "message"),
    [
        ("hard", {"bank_examples": 64, "bank_super_batches": 2}, "both give the bank's capacity"),
        ("hard", {"bank_examples": 31}, r"\(31\) must be at least .* \(32\)"),
        ("hard", {"bank_removal": "lowest"}, "a bank of one super-batch keeps none"),
        ("hard", {"bank_error_buffer": 20.0}, "says how far draws may be off"),
        ("hard", {"when_stale": "rescore"}, "needs to know what is stale"),
        ("hard", {"samples_per_insert": 1.5}, r"max_times_sampled \(1\) times"),
        ("hard", {"samples_per_insert": 0.5, "bank_error_buffer": 15.0}, "a deadlock"),
        ("hard", {"bank_minimum": 33}, "33 examples must be .* holds 32"),
        ("jest", {"samples_per_insert": 0.5}, "leave out --select.samples-per-insert"),
        ("jest", {"max_staleness": 3, "keep_examples": False}, "max-staleness, --select.keep"),
    ],
)
def test_contradictory_banks_are_refused(name, select, message, tmp_path):
    sizes = {"super_batch_size": 32, "sub_batch_size": 16}
    with pytest.raises(ConfigError, match=message):
        check(recipe(name).changed(select=sizes | select))


def test_other_contradictions_of_a_bank_are_refused():
    stale = {"max_staleness": 3, "when_stale": "rescore"}
    pairs = recipe("active_clip").changed(select=stale, contrastive={"act": "contrastive"})
    with pytest.raises(ConfigError, match="a pair's loss depends on its super-batch"):
        check(pairs)
    with pytest.raises(ConfigError, match=r"by --select.criterion infobatch an example's score d"):
        check(recipe("infobatch").changed(select=stale))
    ordered = recipe("uniform").changed(data={"order": "o"}, select={"samples_per_insert": 0.5})
    with pytest.raises(ConfigError, match="take recipe uniform"):
        check(ordered.changed(select={"sub_batch_size": 64, "super_batch_size": 64}))
