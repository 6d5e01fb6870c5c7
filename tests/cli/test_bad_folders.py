"""Run folders, checkpoints and comparisons that cannot be used: one message, nothing lost."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusals import TINY, contents, npz, parquet
from safetensors.torch import load_file

from superbatch.cli import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_checkpoint_of_other_data(command, refused, trained, tmp_path):
    checkpoint = trained("digits-run")
    use = {
        "train": ["train", "classact", *TINY, "--reference", checkpoint],
        "evaluate": ["evaluate", checkpoint],
    }[command]
    few = npz(tmp_path / "few.npz")
    assert "10 classes and the data has 3" in refused(*use, "--data.path", few)
    large = npz(tmp_path / "large.npz", classes=10, side=16)
    assert "8 pixels a side and the data has 16" in refused(*use, "--data.path", large)
    colour = parquet(tmp_path / "colour.parquet")
    assert "1 channels and the data has 3" in refused(*use, "--data.path", colour)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_checkpoint_of_other_classes(command, refused, trained, tmp_path):
    labels = [0, 1, 2] * 10
    theirs = parquet(tmp_path / "a.parquet", count=30, labels=labels, names=["bee", "cat", "dog"])
    path = parquet(tmp_path / "b.parquet", count=30, labels=labels, names=["ant", "bee", "cat"])
    checkpoint = trained("other-run", "--data.path", theirs)
    use = {
        "train": ["train", "classact", *TINY, "--reference", checkpoint],
        "evaluate": ["evaluate", checkpoint],
    }[command]
    message = refused(*use, "--data.path", path)
    assert "other-run learned 'bee' as class 0 and in the data it is 1" in message


def test_a_checkpoint_that_is_none(refused, trained, tmp_path):
    trained("other-run")
    (tmp_path / "text.safetensors").write_text("not weights")
    for path, said in [
        ("missing.safetensors", "there is no such file"),
        (".", "no finished run is there"),
        ("text.safetensors", "cannot be read as safetensors weights"),
        ("other-run/checkpoints/step-00000002.pt", "give a finished run, or its"),
    ]:
        for use in (["train", "classact", *TINY, "--reference"], ["evaluate"]):
            message = refused(*use, path)
            assert said in message
            assert path in message
    assert "needs one checkpoint and was given 0" in refused("evaluate")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device=nonsense"], "--device nonsense cannot be used here"),
        (["--device=meta"], "--device meta cannot be used here"),
        (["--models.learner=mu-1000/3"], "the nearest patches that do: 1, 2, 4"),
        (["--models.reference=resnet18x"], "did you mean resnet18"),
        (
            ["--models.learner=vit_tiny_patch16_224"],
            "patches of 16 pixels a side and images have 8",
        ),
        (["--select.temperature=1e-39"], "temperature 1e-39 is too near 0"),
        (["--data.image-size=99999"], "1797 images of 99999x99999 pixels take 17970 GB and this"),
        (
            ["--actors.kind=process", "--actors.device=nonsense"],
            "--actors.device nonsense cannot be used here",
        ),
        (["--data.crop-padding=8"], "--data.crop-padding is 8 and images are 8x8 pixels"),
    ],
)
def test_what_cannot_be_built_leaves_no_folder_behind(flags, said, refused):
    # Else the folder would have to be removed before the command can be given again, mended.
    assert said in refused("train", "classact", *TINY, *flags)


def test_a_folder_that_exists(refused, trained, tmp_path, capsys):
    trained("run")
    message = refused("train", "uniform", *TINY, "--out", "run")
    assert "run exists; continue that run with --resume run, or give a new --out" in message
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken in ("photos", "file"):
        message = refused("train", "uniform", *TINY, "--out", taken)
        assert f"{taken} exists and is not a run; give a new --out" in message
    before = contents(tmp_path)
    assert main(["train", "--resume", "run"]) == 0
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert main(["train", "uniform", *TINY, "--out", "empty"]) == 0


def test_a_folder_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = refused("train", "uniform", *TINY, "--out", "file/run")
    assert "cannot write file/run/config.json: Not a directory" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "compare needs two recipes or more, each once"),
        (["uniform"], "it was given uniform"),
        (["uniform", "hard", "uniform"], "it was given uniform hard uniform"),
        (
            ["hard", "classact"],
            "none of the recipes hard classact is uniform (uniform, clip, siglip)",
        ),
        (["uniform", "hard", "--baseline=easy"], "--baseline easy is not among"),
        (["uniform", "hard", "--seeds=0"], "--seeds: Input should be greater than or equal to 1"),
    ],
)
def test_a_comparison_of_nothing(words, said, refused):
    assert said in refused("compare", *words)


def test_a_comparison_where_something_is(refused, trained, tmp_path):
    trained("run")
    message = refused("compare", "uniform", "rs2", *TINY, "--out=run")
    assert "run exists and is no comparison; give a new --out" in message
    assert main(["compare", "uniform", "rs2", *TINY, "--out=comparison"]) == 0


def test_a_folder_that_holds_another_comparison(refused, tmp_path, capsys):
    assert main(["compare", "uniform", "rs2", *TINY, "--out=both"]) == 0
    capsys.readouterr()
    message = refused("compare", "uniform", "rs2", *TINY, "--steps=3", "--out=both")
    assert "both holds a comparison with other settings; give a new --out" in message


def test_a_comparison_that_could_not_begin_can_be_given_again_mended(tmp_path, capsys):
    command = ["compare", "uniform", "rs2", *TINY, "--out=both"]
    assert main([*command, "--data.path=digit"]) == 2
    assert main(command) == 0


@pytest.mark.parametrize("command", [["train", "--resume=run"], ["order", "--run=run", "--out=a"]])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "run/config.json is not valid JSON (Expecting property name"),
        ("config.json", b"\xff", "run/config.json is not valid JSON ('utf-8' codec can't decode"),
        (
            "config.json",
            b"[1]",
            "run/config.json holds a list, not an object; restore it, or start",
        ),
        ("summary.json", b"{", "or remove it and write it again with train --resume run"),
    ],
)
def test_a_run_whose_json_is_broken(command, name, content, said, refused, trained, tmp_path):
    trained("run")
    (tmp_path / "run" / name).write_bytes(content)
    assert said in refused(*command)


def test_a_configuration_of_a_run_that_says_something_else(refused, trained, tmp_path):
    trained("run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": "many"}))
    said = refused("train", "--resume=run")
    assert "run/config.json is not what a run wrote: steps: Input should be a valid integer" in said
    assert "--config" not in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "run/metrics.jsonl, line 1 is not valid JSON (Expecting property name"),
        ("3", "run/metrics.jsonl, line 1 is no object with a step; restore or remove it"),
    ],
)
def test_a_broken_line_among_the_metrics_of_a_run_to_go_on_with(line, said, trained, capsys):
    run = Path(trained("run"))
    (run / "summary.json").unlink()
    path = run / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    assert main(["train", "--resume=run"]) == 2
    assert f"superbatch: {said}" in capsys.readouterr().err


def test_a_comparison_whose_plan_is_broken(refused, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "plan.json").write_text("[")
    message = refused("compare", "uniform", "rs2", *TINY, "--out=both")
    assert "both/plan.json is not valid JSON" in message
    assert "restore it, or give a new --out" in message


def test_a_comparison_goes_on_wherever_its_folder_is_and_however_it_is_spelled(tmp_path, capsys):
    words = ["compare", "uniform", "rs2", *TINY, "--json"]
    assert main([*words, "--out=both"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*words, f"--out={tmp_path / 'both'}"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    shutil.move("both", "moved")
    assert main([*words, "--out=moved"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert not (tmp_path / "both").exists()


def test_a_run_that_was_moved_names_its_checkpoint_where_it_is(trained, tmp_path, capsys):
    shutil.move(trained("run"), "moved")
    assert main(["train", "--resume=moved", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["checkpoint"] == "moved/checkpoints/learner.safetensors"


def test_a_damaged_checkpoint_says_what_to_remove(trained, capsys):
    run = Path(trained("run", "--record.checkpoint-every=1"))
    (run / "summary.json").unlink()
    first, second = sorted((run / "checkpoints").glob("step-*.pt"))
    second.write_bytes(b"cut")
    assert main(["train", "--resume=run"]) == 2
    assert f"{second} cannot be read as a checkpoint" in (said := capsys.readouterr().err)
    assert "remove it to continue from the one before" in said
    first.unlink()
    assert main(["train", "--resume=run"]) == 2
    assert "remove it to begin again: there is none before it" in capsys.readouterr().err
    second.unlink()
    assert main(["train", "--resume=run"]) == 0


def test_a_damaged_reference_says_what_to_remove(tmp_path, capsys):
    words = ["train", "classact", *TINY, "--record.evaluate-every=2"]
    assert main([*words, "--out=run"]) == 0
    weights = tmp_path / "run" / "reference" / "checkpoints" / "learner.safetensors"
    expected = {name: value.clone() for name, value in load_file(weights).items()}
    (tmp_path / "run" / "summary.json").unlink()
    weights.write_bytes(b"cut")
    capsys.readouterr()
    assert main(["train", "--resume=run"]) == 2
    said = capsys.readouterr().err
    assert "the weights of the trained reference are damaged" in said
    assert "remove run/reference, and it is trained again as it was" in said
    shutil.rmtree(tmp_path / "run" / "reference")
    assert main(["train", "--resume=run"]) == 0
    again = load_file(weights)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
