"""What a user gets wrong: exit code 2, one message with both values and a way out, nothing lost."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import TINY, contents, parquet

from superbatch import training
from superbatch.cli import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_unknown_command(refused):
    assert "no command 'trian'; did you mean train?" in refused("trian", "uniform")
    assert "there are train, compare, evaluate, score" in refused("xyz")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_an_unknown_recipe(command, refused):
    words = ["uniform"] if command == "compare" else []
    assert "no recipe 'clasact'; did you mean classact?" in refused(command, *words, "clasact")
    assert "there are uniform, rs2, hard" in refused(command, *words, "xyz")


@pytest.mark.parametrize("command", [["train", "uniform"], ["compare", "uniform", "rs2"]])
def test_an_unknown_flag(command, capsys, tmp_path):
    assert main([*command, "--stepz", "3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Unrecognized options: --stepz" in err
    assert "--steps INT" in err
    assert "Traceback" not in err
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "uniform", "--recipe=classact"],
        ["compare", "uniform", "rs2", "--recipe=classact"],
        ["evaluate", "run", "--recipe=classact"],
        ["evaluate", "run", "--steps=3"],
        ["evaluate", "run", "--data.label-noise=0.1"],
    ],
)
def test_a_setting_that_would_have_no_effect_is_no_flag(words, capsys):
    assert main(words) == 2
    assert f"Unrecognized options: {words[-1].partition('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "0"], "--steps: Input should be greater than or equal to 1 (it is 0)"),
        (["--data.label-noise", "1.5"], "--data.label-noise: Input should be less than 1"),
        (["--select.temperature", "-1"], "--select.temperature: Input should be greater than"),
        (
            ["--select.sub-batch-size", "300"],
            "--select.sub-batch-size (300) is larger than --select.super-batch-size (128)",
        ),
        (["--data.memory-gb", "inf"], "--data.memory-gb: Input should be a finite number (it is"),
        (["--optimise.clip-norm", "nan"], "--optimise.clip-norm: Input should be a finite number"),
        (["--ranks.timeout-seconds", "inf"], "--ranks.timeout-seconds: Input should be a finite"),
        (
            ["--actors.kind=process", "--actors.count=4", "--actors.count-max=2"],
            "--actors.count-max 2 is fewer than --actors.count 4",
        ),
        (["--data.holdout-fraction", "0"], "--data.holdout-fraction is 0; give it a share"),
        (
            ["--data.label-noise", "0.2", "--data.truth", "real"],
            "--data.label-noise 0.2 makes its own truth, and --data.truth real names another",
        ),
    ],
)
def test_settings_that_cannot_work(flags, said, refused):
    assert said in refused("train", "classact_ho", *flags)


@pytest.mark.parametrize("recipe", ["uniform", "clip", "siglip"])
def test_uniform_training_does_not_choose(recipe, refused):
    assert (
        f"recipe {recipe} learns all that it draws, and --select.criterion is learnability; "
        "take a recipe that chooses, such as classact or hard"
    ) in refused("train", recipe, "--select.criterion=learnability")


def test_pairs_have_no_halves(refused):
    said = refused("train", "active_clip", "--data.path=a.tar", "--data.part=first_half")
    assert "cannot use --data.part (first_half)" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "many"], "invalid literal for int() with base 10: 'many'"),
        (["--data.part", "all"], "invalid choice 'all'"),
    ],
)
def test_words_where_other_words_are_wanted(flags, said, capsys):
    assert main(["train", "uniform", *flags]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert flags[0] in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "train needs a recipe (uniform, "),
        (["uniform", "hard"], "train takes one recipe and was given uniform hard; see compare"),
        (["--config"], "--config needs a value"),
        (["--resume", "runs/x", "--steps", "9"], "--resume continues a run as it was started"),
        (["--resume", "runs/x"], "runs/x is not a run folder: it has no config.json"),
        (["--config", "no.json"], "--config no.json: there is no such file"),
        (["--config", "."], "--config . is a folder and a file is wanted; a run's is config.json"),
        (["hard", "--config=a.json"], "and was given recipe hard and --config a.json; give one"),
        (["--config=a.json", "--resume=b"], "and was given --config a.json and --resume b"),
    ],
)
def test_train_without_what_it_needs(words, said, refused):
    assert said in refused("train", *words)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "is not valid .json"),
        ("a.yaml", "steps: [", "is not valid .yaml"),
        ("a.json", '{"stepz": 3}', "stepz: Extra inputs are not permitted (it is 3)"),
        ("a.yaml", "data: {pat: x}", "data.pat: Extra inputs are not permitted (it is 'x')"),
        ("a.json", '{"steps": "many"}', "steps: Input should be a valid integer"),
        ("a.yaml", "recipe: clasact", "no recipe 'clasact'; did you mean classact?"),
        ("a.yaml", "{recipe: jest, select: {chunk: 2}}", "select.chunk: Extra inputs are not"),
        ("a.yaml", "recipe: 3", "recipe: Input should be a valid string (it is 3)"),
        ("a.yaml", "- steps", "the whole: Input should be a valid dictionary"),
        ("a.yaml", "", "the whole: Input should be a valid dictionary"),
    ],
)
def test_a_configuration_that_is_none(name, text, said, refused, tmp_path):
    (tmp_path / name).write_text(text)
    message = refused("train", "--config", name)
    assert f"--config {name}" in message
    assert said in message


def test_data_that_is_missing(refused):
    message = refused("train", "uniform", *TINY, "--data.path=digit.parquet")
    assert "no such file or folder: digit.parquet" in message
    message = refused("train", "uniform", *TINY, "--data.eval-path=there/x.parquet")
    assert "no such file or folder: there/x.parquet" in message


def test_other_data_for_the_reference_that_is_missing(capsys):
    assert main(["train", "classact", *TINY, "--reference-data=there/x.npz", "--out=run"]) == 2
    message = capsys.readouterr().err
    assert "--reference-data there/x.npz: there is no such file or folder" in message
    assert "--data.path" not in message


def test_a_table_without_the_label_column(refused, tmp_path):
    path = parquet(tmp_path / "a.parquet", count=20)
    message = refused("train", "uniform", *TINY, "--data.path", path, "--data.label", "labl")
    assert "no column 'labl' for --data.label; did you mean 'label'?" in message
    assert "its columns are image, label" in message


@pytest.mark.parametrize(("label", "said"), [(9, "0..2 (3 class names)"), (-1, "0..2")])
def test_a_label_out_of_range(label, said, refused, tmp_path):
    labels = [0, 1, 2, label] * 5
    path = parquet(tmp_path / "a.parquet", count=20, labels=labels, names=["a", "b", "c"])
    message = refused("train", "uniform", *TINY, "--data.path", path)
    assert f"label {label} of id 3 in column 'label'" in message
    assert said in message


def of_classes(path, *names):
    """A table of 20 digits, said to be of the classes ``names``."""
    labels = [row % len(names) for row in range(20)]
    return parquet(path, count=20, labels=labels, names=names)


def test_an_evaluation_set_that_numbers_the_classes_otherwise(refused, tmp_path, capsys):
    path = of_classes(tmp_path / "a.parquet", "ant", "bee", "cat")
    other = of_classes(tmp_path / "b.parquet", "bee", "cat")
    where = ["--data.path", path, "--data.eval-path"]
    message = refused("train", "uniform", *TINY, *where, other)
    assert f"class 'bee' is number 1 in {path} and 0 in {other}" in message
    assert "give both the same classes in the same order" in message
    # The same classes, the first of them, or none by name can be counted under their numbers.
    fine = [of_classes(tmp_path / "c.parquet", "ant", "bee")]
    fine.append(parquet(tmp_path / "d.parquet", count=20, labels=[0, 1] * 10))
    for number, eval_path in enumerate(fine):
        out = f"--out=run-{number}"
        assert main(["train", "uniform", *TINY, *where, eval_path, out]) == 0
        capsys.readouterr()
        assert main(["evaluate", f"run-{number}", *where, eval_path]) == 0
        assert "of 20 examples" in capsys.readouterr().out
    assert "class 'bee' is number 1" in refused("evaluate", "run-0", *where, other)


@pytest.mark.parametrize("memory_gb", ["2", "0"])
def test_a_few_broken_images_are_skipped_counted_and_reported(memory_gb, tmp_path, capsys):
    path = parquet(tmp_path / "a.parquet", broken=[7])
    where = ["--data.path", path, "--data.memory-gb", memory_gb, "--steps=24"]
    assert main(["train", "uniform", *TINY, *where, "--out=run"]) == 0
    assert "1 broken images were skipped" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"] == 1
    parts = (tmp_path / "run" / "selection").glob("*.parquet")
    seen = pa.concat_tables([pq.read_table(part) for part in parts])["id"].to_pylist()
    assert 7 not in seen
    assert len(set(seen)) > 100


def test_broken_images_met_before_a_stop_are_counted_after_it(tmp_path, monkeypatch, capsys):
    path = parquet(
        tmp_path / "a.parquet", broken=[121]
    )  # read in the first step, and after step 20 not again
    flags = ["--data.path", path, "--data.memory-gb=0", "--steps=24", "--record.checkpoint-every=1"]
    after = training.Run._after

    def interrupted(run, step):
        after(run, step)
        if step.number == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "_after", interrupted)
    assert main(["train", "uniform", *TINY, *flags, "--out=run"]) == 1
    monkeypatch.setattr(training.Run, "_after", after)
    assert main(["train", "--resume=run"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"] == 1


def test_broken_images_of_a_set_only_evaluated_on_are_counted_too(tmp_path, capsys):
    path = parquet(tmp_path / "a.parquet", broken=[7])
    good = parquet(tmp_path / "good.parquet")
    where = ["--data.path", good, "--data.eval-path", path]
    assert main(["train", "uniform", *TINY, *where, "--out=run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped_images"] == 1


@pytest.mark.parametrize("memory_gb", ["2", "0"])
def test_more_broken_images_stop_the_run(memory_gb, refused, tmp_path, capsys):
    path = parquet(tmp_path / "a.parquet", broken=[7, 8, 9])
    flags = ["--data.path", path, "--data.memory-gb", memory_gb, "--steps=24", "--out=run"]
    assert main(["train", "uniform", *TINY, *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("superbatch: ") == 1
    assert "3 of 200 images cannot be decoded (1.5%, the limit is 1%), such as those of ids" in err
    assert "Traceback" not in err


def test_online_recipes_take_no_trained_reference(refused):
    message = refused("train", "classact_online", "--reference", "x.safetensors")
    assert "trains its reference alongside the learner and cannot use --reference" in message


def test_a_reference_that_cannot_be_ahead(refused):
    ahead = "--reference-training.ahead=2"
    message = refused("train", "classact", ahead, "--actors.kind=process")
    assert "recipe classact has none; leave it out, or take classact_online" in message
    assert "there is one process; add --actors.kind process" in refused(
        "train", "classact_online", ahead
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.evaluation-fraction=0.9999"], "with evaluation_fraction 0.9999"),
        (["--data.evaluation-fraction=0"], "there is nothing to evaluate on"),
        (["--data.holdout-fraction=0.9999"], "holdout_fraction 0.9999"),
        (["--data.holdout-fraction=0.0001"], "the holdout would be empty: 1797 examples"),
        (
            ["--data.evaluation-fraction=0.99", "--data.holdout-fraction=0.99"],
            "the pool to train on would be empty: 1797 examples with evaluation_fraction 0.99",
        ),
    ],
)
def test_fractions_that_leave_nothing(flags, said, refused):
    assert said in refused("train", "classact_ho", *TINY, *flags)


def test_one_class_has_no_other_for_noise(refused, tmp_path):
    path = of_classes(tmp_path / "a.parquet", "ant")
    message = refused("train", "uniform", *TINY, "--data.path", path, "--data.label-noise=0.3")
    assert "--data.label-noise 0.3 gives labels another class, and there is 1" in message


def test_images_that_are_not_square(refused, tmp_path):
    images = np.zeros((9, 8, 10), dtype=np.uint8)
    np.savez(tmp_path / "wide.npz", images=images, labels=np.arange(9) % 3)
    message = refused("train", "uniform", *TINY, "--data.path=wide.npz")
    assert "images of wide.npz are 8x10 pixels and models take square ones" in message
    assert "set --data.image-size" in message
