"""``superbatch train`` as a user gives it, and every option for a step or two."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from refusals import TINY as SMALL
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from superbatch.cli import main
from superbatch.cli.settings import read_config
from superbatch.config import Config
from superbatch.recipes import RECIPES, recipe


TINY = [*SMALL, "--record.evaluate-every=100"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(tmp_path, capsys):
    """Trains ``recipe`` in ``run`` for two steps; its summary."""

    def run(recipe, *flags):
        assert main(["train", recipe, *TINY, "--out=run", "--json", *flags]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, role="learner"):
    return load_file(folder / "checkpoints" / f"{role}.safetensors")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_json_is_all_that_is_printed_and_equals_the_summary(train, tmp_path):
    summary = train("classact")
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"recipe", "seed", "steps", "examples_seen", "examples_learned"} < summary.keys()
    assert summary["flops"].keys() == {"paper", "full", "by_role"}
    assert summary["seconds"].keys() == {"total", "by_phase"}
    assert (tmp_path / summary["checkpoint"]).is_file()


def test_without_json_the_last_lines_say_what_it_cost(tmp_path, capsys):
    assert main(["train", "classact", *TINY, "--out=run"]) == 0
    out, err = capsys.readouterr()
    for words in ("paper's accounting", "full accounting", "online, learn", "reference, pretrain"):
        assert words in out
    for phase in ("data", "scoring", "selection", "learner", "online", "evaluation"):
        assert phase in out
    assert "checkpoint run/checkpoints/learner.safetensors" in out
    assert "classact  2/2" in err


def test_a_configuration_repeats_its_run_exactly(train, tmp_path, capsys):
    train("classact", "--data.flip", "--data.crop-padding=1", "--seed=3", "--steps=4")
    config = tmp_path / "run" / "config.json"
    assert main(["train", "--config", str(config), "--out", "again"]) == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))
    without = [
        [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows(folder)]
        for folder in (tmp_path / "run", tmp_path / "again")
    ]
    assert without[0] == without[1]
    ours, theirs = (
        json.loads(config.read_text()),
        json.loads((tmp_path / "again" / "config.json").read_text()),
    )
    assert ours.pop("out") == "run"
    assert theirs.pop("out") == "again"
    assert ours == theirs


def test_a_configuration_starts_from_the_recipe_that_it_names(tmp_path):
    (tmp_path / "a.yaml").write_text("{recipe: jest, steps: 9, select: {chunks: 4}}")
    assert read_config("a.yaml") == recipe("jest").changed(steps=9, select={"chunks": 4})
    (tmp_path / "b.json").write_text('{"steps": 9}')
    assert read_config("b.json") == Config(steps=9)


@pytest.mark.parametrize("name", RECIPES)
def test_a_whole_configuration_is_read_as_it_is(name, tmp_path):
    # Every section is unlike the recipe's somewhere: nothing of the recipe may come back.
    config = recipe(name).changed(
        steps=9,
        select={"criterion": "hard", "super_batch_size": 33, "joint": False},
        models={"learner": "mu-2400/4"},
        contrastive={"score_patch": None},
        reference_training={"data": "pool", "steps": 5},
        data={"holdout_fraction": 0.25},
    )
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert read_config("config.json") == config


def test_a_run_with_a_recipe_of_its_own_goes_on(train, tmp_path, capsys):
    train("uniform")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"recipe": "uniform"', '"recipe": "mine"'))
    assert main(["train", "--resume=run"]) == 0


def test_yaml_and_flags_over_it(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "recipe: hard\nsteps: 9\nselect: {criterion: hard, super_batch_size: 16, sub_batch_size: 8}"
        "\nmodels: {learner: mu-2400/4, online: mu-2400/4}\n"
    )
    assert main(["train", "--config", "a.yaml", "--steps=2", "--out=run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["recipe"], summary["steps"], summary["examples_seen"]) == ("hard", 2, 32)


def test_a_run_that_diverges_has_failed(capsys):
    words = ["train", "hard", *TINY, "--steps=40", "--optimise.learning-rate=1e30"]
    assert main([*words, "--optimise.clip-norm=0", "--out=run"]) == 1
    assert "have a finite score; a model that scores has diverged" in capsys.readouterr().err


def test_a_run_without_selection_that_diverges_says_so(capsys):
    wild = [*TINY, "--steps=20", "--optimise.learning-rate=1e30", "--optimise.clip-norm=0"]
    assert main(["train", "uniform", *wild, "--out=run"]) == 0
    assert "it has diverged; try a lower --optimise.learning-rate" in capsys.readouterr().out
    assert main(["compare", "uniform", "rs2", *wild, "--out=both"]) == 0
    assert capsys.readouterr().out.count("it has diverged; try a lower") == 2


def test_actors_that_are_not_asked_for_are_said_to_have_no_effect(tmp_path, capsys):
    for kind, noted in ((), True), (["--actors.kind=process"], False):
        out = f"--out={tmp_path / str(noted)}"
        assert main(["train", "hard", *TINY, "--actors.count=2", *kind, out, "--json"]) == 0
        err = capsys.readouterr().err
        assert ("--actors.count 2 has no effect" in err) == noted
        assert ("add --actors.kind process" in err) == noted


def test_tensorboard_writes_its_events(train, tmp_path):
    pytest.importorskip("tensorboard")
    train("uniform", "--record.tensorboard", "--record.log-every=1")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("learner/loss")]
    written = [(row["step"], np.float32(row["learner/loss"])) for row in rows(tmp_path / "run")]
    assert shown == written


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimise.bf16"],
        ["--data.rand-augment", "--data.flip", "--data.crop-padding=2"],
        ["--data.rand-augment", "--score-view=plain"],
        ["--optimise.label-smoothing=0.1"],
    ],
)
def test_an_option_changes_the_weights(flags, train, tmp_path, capsys):
    train("classact", *flags)
    assert main(["train", "classact", *TINY, "--out=plain"]) == 0
    learned = weights(tmp_path / "run")
    assert all(bool(torch.isfinite(value).all()) for value in learned.values())
    assert not same(learned, weights(tmp_path / "plain"))


def test_an_average_of_the_weights_is_evaluated_and_saved(train, tmp_path):
    train("uniform", "--optimise.ema-decay=0.5")
    averaged = weights(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-00000002.pt", weights_only=True)
    assert same(averaged, dict(state["learners"]["learner"]["average"]))
    assert not same(averaged, dict(state["learners"]["learner"]["model"]))


def test_parts_of_a_batch_add_up_to_the_batch(train, tmp_path, capsys):
    train("classact", "--optimise.micro-batch-size=3")
    assert main(["train", "classact", *TINY, "--out=whole"]) == 0
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    # AdamW's first updates are signs of gradients: where one is near 0, its sum's order decides.
    far = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours]) > 1e-5
    assert far.float().mean() < 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="torch.compile needs a compiler"
)
def test_a_compiled_run_comes_to_the_same(tmp_path, unchecked):
    assert main(["train", "uniform", *TINY, "--out=compiled", "--optimise.compile"]) == 0
    assert main(["train", "uniform", *TINY, "--out=eager"]) == 0
    ours, theirs = rows(tmp_path / "compiled")[-1], rows(tmp_path / "eager")[-1]
    assert ours["learner/loss"] == pytest.approx(theirs["learner/loss"], rel=1e-3)


def test_any_model_of_timm_can_learn(train, tmp_path):
    # What timm calls resnet10t costs 8 px and one channel as it costs 224 px and three.
    summary = train("classact", "--models.learner=resnet10t")
    assert summary["flops"]["by_role"]["learner"]["learn"] > 0
    assert any("running_mean" in name for name in weights(tmp_path / "run"))


def digits():
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels).float() / 127.5 - 1, labels


@pytest.mark.parametrize("name", ["mu-2400/4", "resnet10t"])
def test_timm_loads_the_weights_and_answers_the_same(name, train, tmp_path):
    import timm
    from timm.models.vision_transformer import VisionTransformer

    from superbatch.problems import problem_of

    train("uniform", "--models.learner", name, "--steps=3")
    path = tmp_path / "run" / "checkpoints" / "learner.safetensors"
    theirs = (
        VisionTransformer(
            img_size=8,
            patch_size=4,
            in_chans=1,
            num_classes=10,
            embed_dim=48,
            depth=2,
            num_heads=1,
            mlp_ratio=4,
        )
        if name == "mu-2400/4"
        else timm.create_model(name, in_chans=1, num_classes=10)
    )
    timm.models.load_checkpoint(theirs, str(path), strict=True)
    config = Config()
    ours = problem_of(config).load(str(path), "learner")
    images, _ = digits()
    with torch.no_grad():
        assert torch.equal(ours.eval()(images[:32]), theirs.eval()(images[:32]))


def test_a_reference_that_is_given_is_not_trained_nor_counted(train, tmp_path, capsys):
    assert main(["train", "uniform", *TINY, "--seed=5", "--out=before"]) == 0
    capsys.readouterr()
    by_folder = train("classact", "--reference=before")
    assert not (tmp_path / "run" / "reference").exists()
    assert by_folder["flops"]["by_role"]["reference"]["pretrain"] == 0
    file = "--reference=before/checkpoints/learner.safetensors"
    by_file = train("classact", file, "--out=other")
    assert by_file["flops"] == by_folder["flops"]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "other"))


@pytest.mark.skipif(os.name != "posix", reason="pipes are closed otherwise there")
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["cost", "--learner=L/16", "--actor=Ti/16", "--beta=0.7", "--json"],
        ["cost", "--learner=L/16", "--actor=Ti/16", "--beta=0.7"],
    ],
)
def test_a_reader_that_leaves_sees_no_traceback(words):
    child = subprocess.Popen(
        [sys.executable, "-m", "superbatch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert said == ""


def test_help_needs_no_torch():
    code = (
        "import sys; from superbatch.cli import main; main(['train', 'uniform', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert importlib.util.find_spec("torch") is not None
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "--data.path" in ran.stdout
