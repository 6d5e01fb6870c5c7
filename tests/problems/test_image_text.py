"""Runs on pairs of images and captions, whole."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from made_shards import write_digits
from superbatch import training
from superbatch.checks import check
from superbatch.errors import CheckpointError, ConfigError, DataError, Stopped
from superbatch.models.exchange import weights_in
from superbatch.problems import problem_of
from superbatch.recipes import RECIPES, recipe
from superbatch.surroundings import Surroundings


pytest.importorskip("open_clip", reason="models of pairs need the extra [clip]")

ON_PAIRS = sorted(name for name in RECIPES if recipe(name).task == "image_text")
B, b, STEPS, REFERENCE_STEPS = 24, 8, 6, 3


@pytest.fixture
def pairs(tmp_path):
    write_digits(tmp_path / "pool.tar", 0, 60)
    write_digits(tmp_path / "clean.tar", 60, 30)
    write_digits(tmp_path / "test.tar", 90, 30)
    return tmp_path


def tiny(name, folder, out="run", **sections):
    config = recipe(name).changed(
        steps=STEPS,
        seed=2,
        out=str(folder / out),
        data={
            "path": str(folder / "pool.tar"),
            "eval_path": str(folder / "test.tar"),
            "caption_noise": 0.4,
            "context": 10,
            "flip": True,
        },
        models={"learner": "mu-1000/2", "online": "mu-2400/2", "reference": "mu-2400/2"},
        select={"super_batch_size": B, "sub_batch_size": b, "chunks": 4},
        reference_training={"steps": REFERENCE_STEPS},
        record={"log_every": 1, "evaluate_every": 3, "checkpoint_every": 2},
    )
    if name == "flexi_jest":
        config = config.changed(contrastive={"score_patch": 4})
    if config.select.criterion != "uniform":
        config = config.changed(reference_data=str(folder / "clean.tar"))
    return config.changed(**sections)


def outcome(folder):
    """What a run leaves that is not a time, a path, or of its actors."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = sorted((folder / "selection").glob("*.parquet"))
    weights = load_file(folder / "checkpoints" / "learner.safetensors")
    return (
        [
            {key: row[key] for key in row if key != "seconds" and "actors/" not in key}
            for row in rows
        ],
        pa.concat_tables([pq.read_table(part) for part in parts]).to_pydict(),
        {name: value.tolist() for name, value in weights.items()},
    )


@pytest.mark.parametrize("name", ON_PAIRS)
def test_every_recipe_trains_and_its_ledger_is_what_ran(name, pairs):
    config = tiny(name, pairs)
    summary = training.start(config)
    problem = problem_of(config)
    price = {
        role: problem.forward_flops(problem.model(role))
        for role in ("learner", "online", "reference")
    }
    spent = summary["flops"]["by_role"]
    scored = {
        "active_clip": ("online", "reference"),
        "active_siglip": ("online", "reference"),
        "jest": ("learner", "reference"),
    }
    assert set(summary["val"]) >= {f"{way}_r{k}" for way in WAYS for k in (1, 5, 10)}
    assert 0 <= summary["val"]["mean_recall"] <= 1
    assert summary["examples_learned"] == b * STEPS
    if name == "flexi_jest":  # half of the pairs at a quarter of the patches
        assert spent["learner"]["score"] < price["learner"] * B * STEPS
        assert spent["learner"]["learn"] < 3 * price["learner"] * b * STEPS
        return
    assert spent["learner"]["learn"] == 3 * price["learner"] * b * STEPS
    for role in scored.get(name, ()):
        assert spent[role]["score"] == price[role] * B * STEPS
    if name in scored:
        assert spent["reference"]["pretrain"] == 3 * price["reference"] * b * REFERENCE_STEPS
        assert 0 < summary["selection"]["clean_share_pool"] < 1


WAYS = ("image_to_text", "text_to_image")


@pytest.mark.parametrize("name", ["active_clip", "jest", "flexi_jest"])
def test_interrupted_and_resumed_is_identical(name, pairs):
    training.start(tiny(name, pairs, "through"))
    turns = iter(range(1000))
    stop = Surroundings(stop=lambda: next(turns) >= REFERENCE_STEPS + 3)
    with pytest.raises(Stopped):
        training.start(tiny(name, pairs, "stopped"), stop)
    training.resume(pairs / "stopped")
    assert outcome(pairs / "stopped") == outcome(pairs / "through")


def test_the_reference_learns_the_curated_pairs_without_added_noise(pairs):
    training.start(tiny("active_clip", pairs))
    learned = json.loads((pairs / "run" / "reference" / "config.json").read_text())
    assert learned["data"]["path"] == str(pairs / "clean.tar")
    assert learned["data"]["caption_noise"] == 0
    assert learned["recipe"] == "clip"
    assert learned["data"]["image_size"] == 8  # the learner's, whatever the curated ones are


def test_micro_batches_change_nothing_but_memory_and_the_ledger(pairs):
    """Scores, of a loss within the super-batch too, are those of one pass over all of it."""
    sections = {"contrastive": {"act": "contrastive"}, "reference_data": None}
    whole = training.start(tiny("active_clip", pairs, "whole", **sections))
    parts = training.start(
        tiny("active_clip", pairs, "parts", optimise={"micro_batch_size": 5}, **sections)
    )
    one, other = outcome(pairs / "whole"), outcome(pairs / "parts")
    assert one[1]["id"] == other[1]["id"]
    assert one[1]["chosen"] == other[1]["chosen"]
    np.testing.assert_allclose(one[1]["loss/online"], other[1]["loss/online"], atol=1e-4)
    learner = parts["flops"]["by_role"]["learner"]
    assert learner["recompute"] * 3 == learner["learn"]
    reference = parts["flops"]["by_role"]["reference"]
    assert reference["recompute"] * 3 == reference["pretrain"]
    assert "recompute" not in whole["flops"]["by_role"]["learner"]
    assert parts["flops"]["paper"] == whole["flops"]["paper"]
    assert parts["flops"]["full"] > whole["flops"]["full"]


def test_changing_the_reference_changes_the_pick(pairs):
    training.start(tiny("jest", pairs, "one", select={"temperature": 0.0}))
    sections = {"select": {"temperature": 0.0}, "reference_training": {"steps": 9}}
    training.start(tiny("jest", pairs, "other", **sections))
    one, other = outcome(pairs / "one")[1], outcome(pairs / "other")[1]
    first = np.array(one["step"]) == 1
    assert np.array(one["id"])[first].tolist() == np.array(other["id"])[first].tolist()
    assert np.array(one["chosen"])[first].tolist() != np.array(other["chosen"])[first].tolist()
    assert sum(np.array(one["chosen"])[first]) == b


def test_duplicates_are_counted_and_left_out_on_request(pairs):
    training.start(tiny("active_clip", pairs, "with"))
    training.start(tiny("active_clip", pairs, "without", data={"deduplicate": True}))
    counted, left_out = (outcome(pairs / run)[0] for run in ("with", "without"))
    assert sum(row["selection/duplicates"] for row in counted) > 0
    found = [[row["selection/duplicates"] for row in rows] for rows in (counted, left_out)]
    assert found[0] == found[1]  # the same super-batches
    scored = outcome(pairs / "without")[1]
    images = problem_of(tiny("clip", pairs)).examples.image_ids[np.array(scored["id"])]
    for step in range(1, STEPS + 1):
        of_step = images[np.array(scored["step"]) == step]
        assert len(np.unique(of_step)) == len(of_step)
    assert left_out[-1]["examples_seen"] < counted[-1]["examples_seen"] == B * STEPS
    assert json.loads((pairs / "without" / "summary.json").read_text())["skipped_images"] == 0


@pytest.mark.parametrize(("name", "data"), [("jest", {"deduplicate": True}), ("active_clip", {})])
def test_actors_in_processes_choose_what_this_process_chooses(name, data, pairs):
    training.start(tiny(name, pairs, "here", data=data))
    beside = {"kind": "process", "max_staleness": 0}
    training.start(tiny(name, pairs, "there", data=data, actors=beside))
    assert outcome(pairs / "there") == outcome(pairs / "here")


def test_weights_of_other_pairs_are_refused_with_both_values(pairs):
    training.start(tiny("clip", pairs))
    path = str(pairs / "run")
    with pytest.raises(CheckpointError, match=r"10 tokens a caption and the data has 12"):
        problem_of(tiny("clip", pairs, data={"context": 12})).load(path, "reference")
    with pytest.raises(CheckpointError, match=r"8 pixels a side and the data has 16"):
        problem_of(tiny("clip", pairs, data={"image_size": 16})).load(path, "reference")


def test_an_open_clip_checkpoint_is_a_reference(pairs, capsys):
    import open_clip

    from superbatch.cli import main

    training.start(tiny("clip", pairs, "teacher"))
    assert main(["export", str(pairs / "teacher"), f"--out={pairs / 'exported'}"]) == 0
    plain = open_clip.create_model(f"local-dir:{pairs / 'exported'}").eval()
    problem = problem_of(tiny("clip", pairs))
    batch = problem.examples.read(np.arange(5))
    ours = problem.load(str(pairs / "teacher"), "learner").eval()
    image = batch["image"].float() / 127.5 - 1
    with torch.no_grad():
        for own, theirs in zip(
            ours(image, batch["text"])[:2], plain(image, batch["text"])[:2], strict=True
        ):
            assert torch.allclose(own, theirs, atol=1e-5)
    given = {"reference_data": None, "reference": str(pairs / "exported")}
    by_folder = training.start(tiny("active_clip", pairs, "by-folder", **given))
    changed = tiny("active_clip", pairs, "changed", **given)
    by_run = {**given, "reference": str(pairs / "teacher")}
    training.start(tiny("active_clip", pairs, "by-run", **by_run))
    assert by_folder["flops"]["by_role"]["reference"]["pretrain"] == 0
    one, other = outcome(pairs / "by-folder")[1], outcome(pairs / "by-run")[1]
    np.testing.assert_allclose(one["loss/reference"], other["loss/reference"], atol=1e-3)
    with pytest.raises(Stopped):
        training.start(changed, Surroundings(stop=lambda: True))
    weights = weights_in(pairs / "exported")
    save_file({name: w * 2 for name, w in load_file(weights).items()}, weights)
    with pytest.raises(CheckpointError, match=r"the reference of .*changed changed since its last"):
        training.resume(pairs / "changed")


def test_the_bias_of_a_sigmoid_model_survives_its_export(pairs):
    from superbatch.cli import main
    from superbatch.cli.evaluating import task_of_checkpoint, two_tower
    from superbatch.config import Config

    training.start(tiny("siglip", pairs, "teacher"))
    assert main(["export", str(pairs / "teacher"), f"--out={pairs / 'exported'}"]) == 0
    biases = []
    for name in ("teacher", "exported"):
        learned = task_of_checkpoint(str(pairs / name), Config())
        assert learned.contrastive.loss == "sigmoid"
        biases.append(two_tower(str(pairs / name), learned).logit_bias.item())
    assert biases[0] == biases[1] != -10


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"select": {"chunks": 3, "joint": True}}, r"nearest sizes are 6 and 9"),
        (
            {"select": {"joint": True, "chunks": 4, "bank_super_batches": 2}},
            r"bank-super-batches is 2",
        ),
        ({"select": {"joint": True, "chunks": 4, "criterion": "uniform"}}, "uniform"),
        ({"data": {"label_noise": 0.1}}, r"learns pairs of image and text and cannot use"),
        ({"data": {"order": "there"}}, r"take recipe uniform \(of pairs: clip or siglip\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(pairs, sections, said):
    with pytest.raises(ConfigError, match=said):
        check(tiny("active_clip", pairs, **sections))
    with pytest.raises(ConfigError, match="it is for recipes on pairs"):
        check(recipe("classact").changed(data={"caption_noise": 0.1}))


def test_noise_without_clean_pairs_to_evaluate_on_is_refused(pairs):
    with pytest.raises(DataError, match=r"name clean pairs to evaluate on with --data.eval-path"):
        problem_of(tiny("clip", pairs, data={"eval_path": None}))
