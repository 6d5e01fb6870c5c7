"""What a user gets wrong: exit code 2, one message with both values and a way out, nothing lost."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from superbatch import training
from superbatch.cli import main
from superbatch.cli.progress import Bars
from superbatch.recipes import recipe
from superbatch.surroundings import Status, Surroundings


TINY = [
    "--steps=2",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--models.reference=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents(folder):
    """Every file below ``folder`` with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must be refused; its one message. Whatever was there is as it was."""

    def message(*words):
        before = contents(tmp_path)
        code = main(list(words))
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("superbatch: ")
        assert err.count("\n") == 1, err
        assert contents(tmp_path) == before
        return err

    return message


def parquet(path, *, count=200, broken=(), names=None, labels=None):
    """A table of digits in the Hugging Face layout; the images in ``broken`` are no images."""
    pixels, true_labels = load_digits(return_X_y=True)
    rows = []
    for row in range(count):
        file = io.BytesIO()
        gray = np.rint(pixels[row] * 255 / 16).astype(np.uint8).reshape(8, 8)
        Image.fromarray(gray).save(file, "PNG")
        encoded = b"no image" if row in broken else file.getvalue()
        rows.append({"bytes": encoded, "path": f"{row}.png"})
    label = np.array(true_labels[:count] if labels is None else labels)
    table = pa.table({"image": rows, "label": label})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)
    return str(path)


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
    ("flags", "said"),
    [
        (["--steps", "0"], "--steps: Input should be greater than or equal to 1 (it is 0)"),
        (["--data.label-noise", "1.5"], "--data.label-noise: Input should be less than 1"),
        (["--select.temperature", "-1"], "--select.temperature: Input should be greater than"),
        (
            ["--select.sub-batch-size", "300"],
            "--select.sub-batch-size (300) is larger than --select.super-batch-size (128)",
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


def test_whoever_watches_sees_images_being_read(tmp_path):
    path = parquet(tmp_path / "a.parquet")
    data = {"path": path}
    seen = []
    training.start(
        recipe("uniform").changed(steps=1, data=data, models={"learner": "mu-2400/4"}),
        Surroundings(watch=seen.append),
    )
    first = seen[0]
    assert (first.title, first.step, first.steps, first.unit) == ("reading", 200, 200, "examples")
    assert (seen[-1].title, seen[-1].unit) == ("uniform", "steps")


def test_reading_is_said_where_it_takes_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("superbatch.cli.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    bars = Bars(Console(file=out))
    bars.watch(Status("reading", 10, 100, {}, "examples"))
    now[0] = 109.0
    bars.watch(Status("reading", 40, 100, {}, "examples"))
    assert out.getvalue() == ""
    now[0] = 112.0  # 12 seconds after the first: 60 images more
    bars.watch(Status("reading", 70, 100, {}, "examples"))
    assert out.getvalue() == "reading  70/100  5.0 examples/s  6 s left\n"


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


@pytest.fixture
def trained(tmp_path, capsys):
    """Trains a run of ``uniform`` and forgets what it printed."""

    def run(out, *flags):
        assert main(["train", "uniform", *TINY, *flags, "--out", out]) == 0
        capsys.readouterr()
        return out

    return run


def npz(path, *, classes=3, side=8):
    images = np.random.default_rng(0).integers(0, 256, (40, side, side), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % classes)
    return str(path)


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device=nonsense"], "--device nonsense cannot be used here"),
        (["--device=meta"], "--device meta cannot be used here"),
        (["--models.learner=mu-1000/3"], "the nearest patches that do: 1, 2, 4"),
        (["--models.reference=resnet18x"], "did you mean resnet18"),
        (["--data.crop-padding=8"], "--data.crop-padding is 8 and images are 8x8 pixels"),
    ],
)
def test_what_cannot_be_built_leaves_no_folder_behind(flags, said, refused):
    # Else the folder would have to be removed before the command can be given again, mended.
    assert said in refused("train", "classact", *TINY, *flags)


def test_images_that_are_not_square(refused, tmp_path):
    images = np.zeros((9, 8, 10), dtype=np.uint8)
    np.savez(tmp_path / "wide.npz", images=images, labels=np.arange(9) % 3)
    message = refused("train", "uniform", *TINY, "--data.path=wide.npz")
    assert "images of wide.npz are 8x10 pixels and models take square ones" in message
    assert "set --data.image-size" in message


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
