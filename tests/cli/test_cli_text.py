"""The commands on texts with labels."""

import json
import subprocess
import sys

import pytest

from made_texts import sentences, write_config, write_tsv, write_vocabulary
from superbatch.cli import main


pytest.importorskip("transformers", reason="models of texts need the extra [text]")

HOSTILE = "<script>alert('good')</script> a good film"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, and a finished run of classact on it."""
    folder = tmp_path_factory.mktemp("texts")
    texts, labels = sentences(120)
    texts[:] = [HOSTILE if place % 2 else text for place, text in enumerate(texts)]
    write_tsv(folder / "train.tsv", texts, labels)
    write_vocabulary(folder / "vocab.txt")
    write_config(folder / "small.json")
    code = main(["train", "classact", "--task=text", *flags(folder), f"--out={folder / 'run'}"])
    assert code == 0
    return folder


def data(folder):
    return [
        f"--data.path={folder / 'train.tsv'}",
        "--data.text=sentence",
        f"--data.vocabulary={folder / 'vocab.txt'}",
        "--data.context=10",
    ]


def flags(folder):
    small = folder / "small.json"
    roles = ("learner", "online", "reference")
    return [
        *data(folder),
        *(f"--models.{role}={small}" for role in roles),
        *("--steps=4", "--select.super-batch-size=16", "--select.sub-batch-size=8"),
        *("--record.evaluate-every=2", "--record.log-every=1"),
    ]


def said(capsys, *words):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_evaluated(made, capsys):
    found = said(capsys, "evaluate", str(made / "run"), *data(made))
    assert (found["examples"], found["class_names"]) == (120, ["0", "1"])
    assert 0 <= found["top1"] <= 1
    assert -1 <= found["matthews"] <= 1
    assert main(["evaluate", str(made / "run"), *data(made)]) == 0
    assert "Matthews correlation" in capsys.readouterr().out


def test_scored_once_verified_and_trained_with_the_table(made, tmp_path, capsys):
    table = str(tmp_path / "losses.parquet")
    reference = f"--model={made / 'run' / 'reference'}"
    found = said(capsys, "score", reference, *data(made), f"--out={table}")
    assert (found["rows"], found["skipped"]) == (120, 0)
    shown = said(capsys, "table", "show", table)
    assert (shown["image_size"], shown["columns"]["loss"]["loss"]) == (None, "cross_entropy")
    verified = said(capsys, "table", "verify", table, *data(made))
    assert (verified["missing"], verified["columns"]["loss"]["recomputed"]) == (0, 120)
    given = [f"--reference={table}", f"--out={tmp_path / 'run'}"]
    run = said(capsys, "train", "classact", "--task=text", *flags(made), *given)
    live = json.loads((made / "run" / "summary.json").read_text())
    assert run["val"] == live["val"]  # the table chooses what its model chooses
    best = tmp_path / "best.txt"
    kept = ["--fraction=0.25", "--per-class", f"--out={best}"]
    said(capsys, "subset", f"--table={table}", *kept, *data(made))
    assert len(best.read_text().split()) == 30
    listed = [f"--data.subset={best}", f"--out={tmp_path / 'best'}"]
    run = said(capsys, "train", "uniform", "--task=text", *flags(made), *listed)
    assert run["examples_learned"] == 32


def test_a_table_of_other_texts_is_refused(made, tmp_path, capsys):
    table = str(tmp_path / "losses.parquet")
    said(capsys, "score", f"--model={made / 'run'}", *data(made), f"--out={table}")
    lines = (made / "train.tsv").read_text().splitlines()
    lines[1], lines[2] = "a dull man\t0", "a good man\t1"
    (tmp_path / "other.tsv").write_text("\n".join(lines) + "\n")
    other = [f"--data.path={tmp_path / 'other.tsv'}", f"--reference={table}"]
    command = ["train", "classact", "--task=text", *flags(made), *other]
    assert main([*command, f"--out={tmp_path / 'run'}"]) == 2
    assert "is a table of other data" in capsys.readouterr().err


def test_an_order_is_replayed_to_the_same_weights(made, tmp_path, capsys):
    order = str(tmp_path / "order.parquet")
    assert said(capsys, "order", f"--run={made / 'run'}", f"--out={order}")["examples"] == 32
    given = [f"--data.order={order}", f"--out={tmp_path / 'replay'}"]
    run = said(capsys, "train", "uniform", "--task=text", *flags(made), *given)
    live = json.loads((made / "run" / "summary.json").read_text())
    assert run["val"] == live["val"]


def test_the_report_shows_sentences_and_no_markup_of_theirs(made, tmp_path, capsys):
    assert main(["report", str(made / "run"), f"--out={tmp_path / 'page.html'}"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert(" not in page
    assert "<blockquote" in page
    assert "no picture" not in page.partition("<main>")[2]


def test_a_comparison_of_texts(made, tmp_path, capsys):
    out = f"--out={tmp_path / 'runs'}"
    found = said(capsys, "compare", "uniform", "rs2", "--task=text", *flags(made), out)
    assert (found["metric"], found["baseline"]) == ("val/accuracy", "uniform")


def test_without_the_package_the_extra_is_named(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = f"--out={tmp_path / 'run'}"
    assert main(["train", "uniform", "--task=text", *flags(made), out]) == 2
    assert "pip install 'superbatch[text]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--data.text=sentences"], "has no column 'sentences' for --data.text; did you mean"),
        (["--data.path=nowhere.tsv"], "there is no such file or folder: nowhere.tsv"),
        (["--data.context=2"], "--data.context"),
        (["--models.learner=bert-tinny"], "did you mean bert-tiny"),
        (["--data.flip"], "labels of texts and cannot use --data.flip"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(given, sentence, made, tmp_path, capsys):
    out = f"--out={tmp_path / 'run'}"
    assert main(["train", "uniform", "--task=text", *flags(made), *given, out]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_only_texts_need_the_package():
    code = (
        "import sys; import superbatch.cli.train, superbatch.training, superbatch.problems; "
        "from superbatch.recipes import recipe; "
        "superbatch.problems.problem_of(recipe('uniform')); "
        "sys.exit(bool({'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
