"""Images with captions at the command line: what a user does, and what a user gets wrong."""

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from made_shards import WORDS, add, write_digits
from superbatch.cli import main


open_clip = pytest.importorskip("open_clip", reason="models of pairs need the extra [clip]")

CONTEXT = 10
TINY = [
    "--steps=4",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--models.reference=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
    f"--data.context={CONTEXT}",
    "--record.log-every=1",
    "--record.evaluate-every=2",
]
PAIRS = ["--data.path=pool.tar", "--data.eval-path=test.tar"]
TEMPLATES = ["a handwritten {}", "the number {}."]
RECALLS = {
    *(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    "mean_recall",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards, prompts, a finished run on pairs and one on labels."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_digits("pool.tar", 0, 60)
        write_digits("test.tar", 60, 30)
        Path("prompts.json").write_text(json.dumps({"names": WORDS, "templates": TEMPLATES}))
        assert main(["train", "active_clip", *TINY, *PAIRS, "--out=run"]) == 0
        labels = ["--steps=1", "--models.learner=mu-2400/4", "--out=labels"]
        assert main(["train", "uniform", *labels]) == 0
        assert main(["export", "run", "--out=exported"]) == 0
        assert main(["score", "--model=run", "--data.path=pool.tar", "--out=table.parquet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_the_place(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    capsys.readouterr()


def summary(run):
    return json.loads(Path(run, "summary.json").read_text())


def told(capsys, *words):
    """The JSON that a command prints, and nothing besides."""
    assert main([*map(str, words), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_a_run_on_pairs_ends_with_recalls_and_what_it_cost(capsys, tmp_path):
    assert main(["train", "active_clip", *TINY, *PAIRS, "--out", str(tmp_path / "run")]) == 0
    found = summary(tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    (result,) = (line for line in lines if line.startswith("active_clip (seed 0)"))
    assert f"mean recall {found['val']['mean_recall']:.4f}, after 4 updates" in result
    assert any(line.startswith("reference, pretrain") for line in lines)
    assert found["val"].keys() == RECALLS
    assert found["left_out"] == {}
    # All captions are where their shard has them, which is no claim that they are true.
    assert not any("left out" in line or "true labels" in line for line in lines)


def test_known_wrong_captions_are_told(capsys, tmp_path):
    noisy = ["--data.caption-noise=0.4", "--out", str(tmp_path / "run")]
    assert main(["train", "clip", *TINY, *PAIRS, *noisy]) == 0
    share = summary(tmp_path / "run")["selection"]["clean_share_pool"]
    assert 0.3 < share < 0.9
    assert f"{share:.3f} of all that were seen" in capsys.readouterr().out


def test_three_recipes_are_compared_by_mean_recall_and_reported(capsys, tmp_path):
    recipes = ["clip", "active_clip", "jest"]
    command = ["compare", *recipes, *TINY, *PAIRS, "--select.chunks=4"]
    command += ["--out", str(tmp_path / "three")]
    comparison = told(capsys, *command)
    assert comparison["metric"] == "val/mean_recall"
    assert comparison["baseline"] == "clip"
    assert [row["recipe"] for row in comparison["runs"]] == recipes
    for row in comparison["runs"]:
        assert row.keys() == {
            "recipe",
            "seed",
            "best",
            "final",
            "updates_to_baseline",
            "learner_speedup",
            "compute_speedup_paper",
            "compute_speedup_full",
            "seconds_speedup",
        }
        run = tmp_path / "three" / f"{row['recipe']}-seed0"
        assert row["final"] == summary(run)["val"]["mean_recall"]
    assert [row["recipe"] for row in comparison["summary"]] == recipes

    assert main(command) == 0  # nothing is left to train: the table alone
    table = capsys.readouterr().out
    assert table.startswith("val/mean_recall against clip")
    assert all(recipe in table for recipe in recipes)

    page = tmp_path / "page.html"
    reported = ["report", str(tmp_path / "three")]
    assert main([*reported, "--out", str(page)]) == 0
    assert page.read_text().count('class="caption"') > 4
    assert ">a handwritten " in page.read_text()
    capsys.readouterr()
    assert told(capsys, *reported)["runs"] == comparison["runs"]


def test_retrieval_is_what_the_run_itself_found(capsys):
    found = told(capsys, "evaluate", "run", "--data.path=test.tar")
    assert found.keys() == RECALLS | {"examples"}
    assert found.pop("examples") == 60  # captions, two an image
    assert found == summary("run")["val"]
    exported = told(capsys, "evaluate", "exported", "--data.path=test.tar")
    assert exported.pop("examples") == 60
    assert exported == found
    assert main(["evaluate", "run", "--data.path=test.tar"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"image to text R@1 {found['image_to_text_r1']:.4f}" in line
    assert "of 60 examples" in line


def by_open_clip():
    """Top-1 of the digits by plain open_clip: names in sentences, cosines, the highest wins."""
    model = open_clip.create_model("local-dir:exported").eval()
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT)
    pixels, labels = load_digits(return_X_y=True)
    gray = torch.from_numpy(np.rint(pixels * 255 / 16).astype(np.float32)).reshape(-1, 1, 8, 8)
    with torch.no_grad():
        image = model.encode_image((gray / 127.5 - 1).expand(-1, 3, -1, -1), normalize=True)
        names = torch.stack(
            [
                model.encode_text(tokenizer([t.format(word) for t in TEMPLATES]), normalize=True)
                for word in WORDS
            ]
        )
    answer = (
        (image @ torch.nn.functional.normalize(names.mean(dim=1), dim=-1).T).argmax(dim=1).numpy()
    )
    return (answer == labels).mean()


def test_images_with_labels_are_classified_by_prompts(capsys):
    zero_shot = ["evaluate", "run", "--zero-shot=prompts.json", "--data.path=digits"]
    found = told(capsys, *zero_shot)
    assert found["examples"] == 1797  # all: nothing is fit
    assert found["zero_shot_top1"] == pytest.approx(by_open_clip())
    assert found["zero_shot_top1"] <= found["zero_shot_top5"] <= 1


def test_images_with_labels_are_classified_by_a_probe(capsys):
    found = told(capsys, "evaluate", "run", "--linear-probe", "--data.path=digits")
    assert found.keys() == {"examples", "linear_probe_top1"}
    assert found["examples"] == round(0.2 * 1797)
    assert 0.5 < found["linear_probe_top1"] <= 1
    both = ["--linear-probe", "--zero-shot=prompts.json", "--data.path=digits"]
    assert main(["evaluate", "run", *both]) == 0
    out = capsys.readouterr().out
    assert "zero-shot top-1 0." in out
    assert f"linear probe top-1 {found['linear_probe_top1']:.4f}" in out


def copy_of(shard, change):
    """The members of ``pool.tar`` in ``shard``; ``change`` of a caption file, none to drop it."""
    with tarfile.open("pool.tar") as whole, tarfile.open(shard, "w") as tar:
        for place, member in enumerate(whole):
            content = whole.extractfile(member).read()
            if member.name.endswith(".json"):
                content = change(place // 2, content)
            if content is not None:
                add(tar, member.name, content)


def test_what_is_left_out_is_counted_in_the_summary_and_told(capsys, tmp_path):
    def change(row, content):
        changed = {
            0: b'{"captions": ["", "a zero", "  "]}',
            1: None,
            2: b"{",
            3: b'{"captions": ["one two three four five six seven", "one two three"]}',
        }
        return changed.get(row, b'{"caption": "a digit"}')

    copy_of(tmp_path / "holes.tar", change)
    with tarfile.open(tmp_path / "holes.tar", "a") as tar:
        add(tar, "alone.txt", b"a caption alone")
    flags = ["--data.path", str(tmp_path / "holes.tar"), "--data.eval-path=test.tar"]
    run = str(tmp_path / "run")
    assert main(["train", "clip", *TINY, *flags, "--data.context=5", "--out", run]) == 0
    # Of the 30 images that are only evaluated on each has a caption such as "seven 63", which is
    # three tokens and fits between start and end, and one such as "a handwritten seven number 63".
    assert summary(run)["left_out"] == {
        "empty caption": 2,
        "image without caption": 1,
        "broken JSON": 1,
        "caption without image": 1,
        "end of a caption longer than 5 tokens": 30 + 1,
    }
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "left out" in line)
    assert "2 x empty caption, " in line
    assert "31 x end of a caption longer than 5 tokens" in line


def test_a_truncated_shard_trains_on_what_is_whole(tmp_path, capsys):
    whole = Path("pool.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) * 3 // 4])
    flags = ["--data.path", str(tmp_path / "cut.tar"), "--out", str(tmp_path / "run"), "--json"]
    assert main(["train", "active_clip", *TINY, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"]["truncated or damaged shard"] == 1


def test_runs_on_labels_leave_nothing_out():
    assert summary("labels")["left_out"] == {}


@pytest.fixture
def refused(capsys, place):
    """Runs a command that must be refused; its one message. Whatever was there is as it was."""

    def message(*words):
        before = contents(place)
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("superbatch: ")
        assert err.count("\n") == 1, err
        assert contents(place) == before
        return err

    return message


def contents(folder):
    """Every file below ``folder`` with its bytes, and every folder."""
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("flags", [["--zero-shot=prompts.json"], ["--linear-probe"]])
def test_a_model_of_labels_takes_no_prompts_and_no_probe(flags, refused):
    message = refused("evaluate", "labels", *flags, "--data.path=digits")
    assert "labels learned labels; --zero-shot and --linear-probe are for checkpoints of" in message


def test_exports_that_are_refused(refused):
    assert "labels learned labels and open_clip has models of pairs" in refused(
        "export", "labels", "--out=new"
    )
    assert "--out exported exists; give a folder that is not there yet" in refused(
        "export", "run", "--out=exported"
    )
    assert "export needs one checkpoint and --out FOLDER" in refused("export", "run")
    assert "cannot read weights from nothing" in refused("export", "nothing", "--out=new")


MADE = {
    "no-captions.tar": lambda path: copy_of(path, lambda row, content: None),
    "empty.tar": lambda path: copy_of(path, lambda row, content: b'{"captions": ["", " "]}'),
    "no-tars": lambda path: (path.mkdir(), (path / "a.jpg").write_bytes(b"an image")),
    "zipped.tar": lambda path: path.write_bytes(gzip.compress(Path("pool.tar").read_bytes())),
    "text.tar": lambda path: path.write_text("once upon a time " * 100),
}


@pytest.mark.parametrize("command", [["train", "active_clip", *TINY], ["evaluate", "run"]])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-captions.tar", "there is not one image with a caption in"),
        ("no-captions.tar", "(60 x image without caption); the caption of a.jpg (.jpeg, .png"),
        ("empty.tar", "(120 x empty caption); "),
        ("no-tars", "no-tars, but a.jpg; shards are tar files that are not compressed"),
        ("zipped.tar", "zipped.tar is compressed with gzip"),
        ("zipped.tar", "unpack it to a plain .tar"),
        ("text.tar", "text.tar is not a tar file"),
        ("missing.tar", "missing.tar; check the path"),
    ],
)
def test_shards_that_cannot_be_used(command, name, said, refused, tmp_path):
    MADE.get(name, lambda path: None)(tmp_path / name)
    assert said in refused(*command, "--data.path", tmp_path / name)


def test_data_of_the_other_kind(refused):
    message = refused("train", "active_clip", *TINY, "--out=new")
    assert "digits are images with labels" in message
    assert "come from tar shards; say where with --data.path" in message
    assert "come from tar shards" in refused("evaluate", "run")
    for command in (["train", "uniform"], ["evaluate", "run", "--zero-shot=prompts.json"]):
        message = refused(*command, "--data.path=pool.tar")
        assert "tar shards such as pool.tar hold images with captions and here" in message
    message = refused("evaluate", "run", "--data.path=digits")
    assert "run learned images with captions" in message
    assert "add --zero-shot PROMPTS or --linear-probe" in message
    message = refused("score", "--model=run", "--data.path=digits", "--out=new.parquet")
    assert "and digits has images with labels; give such shards, or a checkpoint" in message
    message = refused("compare", "uniform", "active_clip", *TINY, *PAIRS, "--out=new")
    assert "labels are what uniform can learn and pairs of image and text what active_" in message


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--models.learner=Tii/16"], "two-tower model is called 'Tii/16' (did you mean Ti/16"),
        (["--models.online=Ti/4+mu600"], "(did you mean Ti/4+mu-600"),
        (["--models.reference=open_clip:ViT-B32"], "'ViT-B32' (did you mean ViT-B-32"),
        (["--models.learner=mu-2400/3"], "a patch of 3 pixels does not divide an image of 8"),
        (["--data.image-size=30"], "image of 30; the nearest patches that do: 2, 3, 5"),
        (
            ["--reference=run", "--data.context=12"],
            "run is a model of 10 tokens a caption and the data has 12",
        ),
        (["--reference=exported", "--data.context=12"], "exported was made for context = 10, and"),
        (
            ["--reference=labels"],
            "labels has learned labels of images and this is about pairs of image and text",
        ),
        (
            ["--reference=table.parquet", "--contrastive.act=contrastive"],
            "--contrastive.act contrastive a pair's loss depends on its super-batch; take dot",
        ),
    ],
)
def test_settings_that_do_not_fit(flags, said, refused):
    assert said in refused("train", "active_clip", *TINY, *PAIRS, *flags, "--out=new")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--select.chunks=5"],
            "--select.sub-batch-size (8) is drawn in --select.chunks (5) equal parts and they do "
            "not divide it; the nearest sizes are 5 and 10",
        ),
        (["--select.chunks=16"], "they do not divide it; give fewer chunks, such as 8"),
        (
            ["--select.chunks=4", "--reference=table.parquet"],
            "--reference table.parquet is a table of losses and joint selection needs the "
            "reference's embeddings; give its checkpoint",
        ),
    ],
)
def test_settings_that_do_not_fit_a_joint_choice(flags, said, refused):
    assert said in refused("train", "jest", *TINY, *PAIRS, *flags, "--out=new")


def test_a_model_of_pairs_is_no_reference_for_labels(refused):
    message = refused("train", "classact", "--steps=1", "--reference=run", "--out=new")
    assert "run has learned pairs of image and text and this is about labels" in message


def test_a_table_of_the_same_pairs_is_a_reference(tmp_path, capsys):
    shutil.copy("table.parquet", tmp_path)  # its memory map is made beside it
    flags = ["--reference", tmp_path / "table.parquet", "--out", tmp_path / "run"]
    found = told(capsys, "train", "active_clip", *TINY, *PAIRS, *flags)
    assert "reference" not in found["flops"]["by_role"]
