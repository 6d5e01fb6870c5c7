"""Runs on texts with labels, whole."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from made_texts import VOCABULARY, sentences, write_config, write_tsv, write_vocabulary
from superbatch import training
from superbatch.checks import check
from superbatch.errors import CheckpointError, ConfigError, DataError, Stopped
from superbatch.measures import parameter_gradient_norm
from superbatch.passes import scoring
from superbatch.problems import Problem, problem_of
from superbatch.recipes import recipe, resolved
from superbatch.surroundings import Surroundings
from superbatch.types import take


pytest.importorskip("transformers", reason="models of texts need the extra [text]")

ON_LABELS = (
    *("uniform", "rs2", "hard", "easy_reference", "rho_loss"),
    *("classact", "classact_ho", "classact_online"),
)
B, b, STEPS = 16, 8, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_tsv(folder / "train.tsv", *sentences(150))
    write_tsv(folder / "dev.tsv", *sentences(60, seed=1))
    write_vocabulary(folder / "vocab.txt")
    write_config(folder / "learner.json", width=24, depth=2)
    write_config(folder / "small.json", width=16)
    return folder


def tiny(name, made, out, **sections):
    config = recipe(name).changed(
        task="text",
        steps=STEPS,
        seed=2,
        out=str(out),
        data={
            "path": str(made / "train.tsv"),
            "eval_path": str(made / "dev.tsv"),
            "text": "sentence",
            "vocabulary": str(made / "vocab.txt"),
            "context": 10,
        },
        models={
            "learner": str(made / "learner.json"),
            "online": str(made / "small.json"),
            "reference": str(made / "small.json"),
        },
        select={"super_batch_size": B, "sub_batch_size": b},
        reference_training={"batch_multiple": 2},
        record={"log_every": 1, "evaluate_every": 3, "checkpoint_every": 2},
    )
    return config.changed(**sections)


def outcome(folder):
    """What a run leaves that is not a time or a path."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = sorted((folder / "selection").glob("*.parquet"))
    weights = load_file(folder / "checkpoints" / "learner.safetensors")
    return (
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        pa.concat_tables([pq.read_table(part) for part in parts]).to_pydict(),
        {name: value.tolist() for name, value in weights.items()},
    )


@pytest.mark.parametrize("name", ON_LABELS)
def test_every_recipe_trains_and_its_ledger_is_what_ran(name, made, tmp_path):
    config = tiny(name, made, tmp_path / "run")
    summary = training.start(config)
    problem = problem_of(config)
    assert isinstance(problem, Problem)
    price = {
        role: problem.forward_flops(problem.model(role))
        for role in ("learner", "online", "reference")
    }
    spent = summary["flops"]["by_role"]
    scored = {
        "hard": ("online",),
        "easy_reference": ("reference",),
        "rho_loss": ("learner", "reference"),
    } | dict.fromkeys(("classact", "classact_ho", "classact_online"), ("online", "reference"))
    assert spent["learner"]["learn"] == 3 * price["learner"] * b * STEPS
    for role in scored.get(name, ()):
        assert spent[role]["score"] == price[role] * B * STEPS
    assert set(summary["val"]) >= {"accuracy", "matthews", "per_class"}
    assert summary["examples_learned"] == b * STEPS


@pytest.mark.parametrize(
    "name", ["entropy", "bald", "selective_backprop", "rho_loss_halves", "learnability_past"]
)
def test_what_rho_loss_is_held_against_learns_texts_too(name, made, tmp_path):
    summary = training.start(tiny(name, made, tmp_path / "run", steps=3))
    assert summary["examples_learned"] == 3 * b
    assert summary["selection"]["non_finite_scores"] == 0


def test_a_gradient_norm_is_that_of_the_texts_own_loss(made, tmp_path):
    problem = problem_of(tiny("uniform", made, tmp_path))
    model = problem.model("learner").eval()
    batch = problem.examples.read(np.arange(3))
    by_hand = []
    for row in range(3):
        model.zero_grad()
        problem.task.act_loss(model, take(batch, torch.tensor([row]))).sum().backward()
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        by_hand.append(torch.stack(squares).sum().sqrt().item())
    with scoring(model):
        found = parameter_gradient_norm(problem.task, model, batch)
    assert found.tolist() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", ["classact", "rho_loss"])
def test_interrupted_and_resumed_is_identical(name, made, tmp_path):
    training.start(tiny(name, made, tmp_path / "through"))
    turns = iter(range(1000))
    stop = Surroundings(stop=lambda: next(turns) >= STEPS + 3)  # the reference takes STEPS turns
    with pytest.raises(Stopped):
        training.start(tiny(name, made, tmp_path / "stopped"), stop)
    training.resume(tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "through")


def test_the_words_that_decide_are_learned(made, tmp_path):
    summary = training.start(
        tiny(
            "uniform",
            made,
            tmp_path / "run",
            steps=120,
            models={"learner": str(made / "small.json")},
            select={"super_batch_size": 32, "sub_batch_size": 32},
            optimise={"learning_rate": 0.01},
            record={"evaluate_every": 120, "checkpoint_every": 120},
        )
    )
    assert summary["val"]["accuracy"] > 0.95
    assert summary["val"]["matthews"] > 0.9


def test_examples_parts_and_noise_are_what_the_configuration_says(made, tmp_path):
    config = tiny("rho_loss", made, tmp_path, data={"eval_path": None, "label_noise": 0.2})
    problem = problem_of(config)
    batch = problem.examples.read(problem.rows[:5])
    assert {name: (tuple(field.shape), field.dtype) for name, field in batch.items()} == {
        "id": ((5,), torch.int64),
        "label": ((5,), torch.int64),
        "truth": ((5,), torch.int64),
        "text": ((5, 10), torch.int64),
        "mask": ((5, 10), torch.bool),
    }
    holdout = problem_of(config.changed(data={"part": "holdout"}))
    parts = [problem.rows, holdout.rows, problem.evaluation_rows]
    assert sorted(np.concatenate(parts).tolist()) == list(range(150))
    wrong = problem.examples.labels != problem.evaluation.labels
    assert np.count_nonzero(wrong) == 30


def test_what_was_left_out_is_reported(made, tmp_path):
    texts, labels = sentences(150)
    texts[7], texts[9] = "", "a film who went zzz " + "very " * 20
    path = write_tsv(tmp_path / "train.tsv", texts, labels)
    summary = training.start(tiny("uniform", made, tmp_path / "run", steps=1, data={"path": path}))
    assert summary["left_out"] == {
        "row without a text": 1,
        "end of a text longer than 10 tokens": 1,
        "word that the vocabulary lacks": 1,
    }
    assert summary["skipped_images"] == 0


def test_models_of_texts_stand_in_where_none_is_named():
    config = resolved(recipe("classact").changed(task="text", models={"online": "bert-2/64"}))
    models = config.models
    assert (models.learner, models.online, models.reference) == (
        "bert-mini",
        "bert-2/64",
        "bert-tiny",
    )
    assert resolved(recipe("classact")).models.learner == "mu-300/4"


def test_weights_are_refused_for_other_data(made, tmp_path):
    config = tiny("uniform", made, tmp_path / "run", steps=1)
    training.start(config)
    weights = str(tmp_path / "run")
    loaded = problem_of(config).load(weights, "learner")
    assert loaded.bert.config.hidden_size == 24
    swapped = list(VOCABULARY)
    swapped[6], swapped[7] = swapped[7], swapped[6]
    other = write_vocabulary(tmp_path / "swapped.txt", swapped)
    with pytest.raises(CheckpointError, match="as the digest of the vocabulary and the data has"):
        problem_of(config.changed(data={"vocabulary": other})).load(weights, "learner")
    with pytest.raises(CheckpointError, match="a model of 10 tokens a text and the data has 12"):
        problem_of(config.changed(data={"context": 12})).load(weights, "learner")
    images = problem_of(recipe("uniform"))
    with pytest.raises(CheckpointError, match="has learned labels of texts and this is about"):
        images.load(weights, "learner")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"vocabulary": None}}, "--data.vocabulary names none; give BERT's vocab.txt"),
        ({"data": {"flip": True}}, "labels of texts and cannot use --data.flip"),
        ({"data": {"image_size": 8}}, "cannot use --data.image-size"),
        ({"data": {"caption_noise": 0.1}}, "cannot use --data.caption-noise"),
        (
            {"select": {"joint": True, "criterion": "hard", "chunks": 2}},
            "cannot use --select.joint",
        ),
        ({"task": "classification"}, r"cannot use --data.vocabulary .*it is for --task text"),
    ],
)
def test_settings_of_other_tasks_are_refused(sections, said, made, tmp_path):
    with pytest.raises(ConfigError, match=said):
        check(tiny("uniform", made, tmp_path).changed(**sections))


def test_data_of_other_tasks_is_refused(made, tmp_path):
    with pytest.raises(DataError, match="digits are images with labels and here texts with labels"):
        problem_of(tiny("uniform", made, tmp_path, data={"path": "digits"}))
    no_part = {"eval_path": None, "evaluation_fraction": 0.0}
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        problem_of(tiny("uniform", made, tmp_path, data=no_part))
