"""``superbatch score``, ``table`` and ``subset``, from a checkpoint of digits to a list of ids."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from superbatch.checkpoint import save_weights
from superbatch.cli import main
from superbatch.models.build import build_model
from superbatch.tables import fingerprint


ABOUT = {"task": "classification", "model": "mu-2400/4", "image_size": 8}
ABOUT |= {"channels": 1, "classes": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints, and a table of each and of both."""
    made = tmp_path_factory.mktemp("score")
    for name, seed in (("small", 0), ("large", 1)):
        model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=seed)
        save_weights(made / f"{name}.safetensors", model.state_dict(), ABOUT)
        score(made / f"{name}.safetensors", "--out", made / f"{name}.parquet")
    models = ["--model", made / "large.safetensors"]
    score(made / "small.safetensors", *models, "--out", made / "both.parquet")
    return made


def score(model, *flags):
    assert main(["score", "--model", *map(str, (model, *flags)), "--json"]) == 0


def refused(capsys, *words):
    """What the command says when it refuses."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def digits():
    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, labels


def expected(seed):
    """Cross-entropy of each digit, by torch alone."""
    images, labels = digits()
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=seed).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float() / 127.5 - 1)
    return torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(labels), reduction="none"
    ).numpy()


def test_each_row_is_the_loss_of_its_example(folder):
    table = pq.read_table(folder / "small.parquet")
    assert table.schema.names == ["id", "loss"]
    assert table["id"].to_pylist() == list(range(1797))
    np.testing.assert_allclose(table["loss"].to_numpy(), expected(0), rtol=1e-4)
    assert not (folder / "small.parquet.parts").exists()


def test_several_models_are_several_columns(folder):
    table = pq.read_table(folder / "both.parquet")
    assert table.schema.names == ["id", "loss/small", "loss/large"]
    np.testing.assert_allclose(table["loss/large"].to_numpy(), expected(1), rtol=1e-4)


def test_the_table_says_where_it_comes_from(folder, capsys):
    assert main(["table", "show", str(folder / "both.parquet"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["rows"] == 1797
    assert (about["data"], about["view"], about["precision"]) == ("digits", "plain", "fp32")
    large = about["columns"]["loss/large"]
    assert (large["model"], large["loss"], large["scale"]) == ("mu-2400/4", "cross_entropy", 1)
    assert about["command"][:2] == ["superbatch", "score"]
    assert main(["table", "show", str(folder / "both.parquet")]) == 0
    assert "view: plain" in capsys.readouterr().out


def test_the_same_command_again_does_nothing(folder):
    before = (folder / "small.parquet").stat().st_mtime_ns
    score(folder / "small.safetensors", "--out", folder / "small.parquet")
    assert (folder / "small.parquet").stat().st_mtime_ns == before


def test_another_command_is_refused(folder, capsys):
    out = ["--out", folder / "small.parquet"]
    err = refused(capsys, "score", "--model", folder / "large.safetensors", *out)
    assert "is a table of other data or other models already; remove it" in err


def left_out(path, out, rows):
    """A copy of a table that says it left ``rows`` out."""
    images, labels = digits()
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"superbatch"])
    kept = np.delete(np.arange(len(images)), rows)
    about["not_finite"] = len(rows)
    about["fingerprint"] = fingerprint(SimpleNamespace(ids=np.arange(1797), labels=labels), kept)
    few = table.take(kept).replace_schema_metadata({"superbatch": json.dumps(about)})
    pq.write_table(few, out)
    return out


def test_a_table_of_other_data_with_rows_left_out_is_not_finished(folder, capsys, tmp_path):
    images, labels = digits()
    np.savez(tmp_path / "other.npz", images=images, labels=labels[::-1])
    out = left_out(folder / "small.parquet", tmp_path / "t.parquet", [5])
    words = ["score", "--model", folder / "small.safetensors", "--out", out]
    assert main([*map(str, words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1796
    err = refused(capsys, *words, "--data.path", tmp_path / "other.npz")
    assert "is a table of other data or other models already" in err
    fewer = left_out(folder / "small.parquet", out, [5, 6])
    about = json.loads(pq.read_schema(fewer).metadata[b"superbatch"]) | {"not_finite": 1}
    rows = pq.read_table(fewer).replace_schema_metadata({"superbatch": json.dumps(about)})
    pq.write_table(rows, out)
    assert "is a table of other data or other models already" in refused(capsys, *words)


def test_verify_computes_a_sample_again(folder, capsys):
    assert main(["table", "verify", str(folder / "both.parquet"), "--sample=50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["missing"]) == (1797, 0)
    assert [column["recomputed"] for column in found["columns"].values()] == [50, 50]
    words = ["table", "verify", folder / "small.parquet", "--model", folder / "large.safetensors"]
    assert "give the checkpoint it was made with" in refused(capsys, *words)


def rewritten(path, out, change):
    """A copy of a table with ``change`` made to its rows."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), out)
    return out


def shuffled(table):
    losses = np.random.default_rng(0).permutation(table["loss"].to_numpy())
    return table.set_column(1, "loss", pa.array(losses))


def test_verify_finds_losses_of_other_ids(folder, capsys, tmp_path):
    other = rewritten(folder / "small.parquet", tmp_path / "t.parquet", shuffled)
    assert "are not those of the model: id" in refused(capsys, "table", "verify", other)
    flags = ["--tolerance=100", "--sample=9"]
    assert main(["table", "verify", str(other), *flags]) == 0
    assert "9 losses computed again" in capsys.readouterr().out


def test_verify_without_the_model_says_so(folder, capsys, tmp_path):
    def moved(table):
        about = json.loads(table.schema.metadata[b"superbatch"])
        about["columns"]["loss"]["checkpoint"] = "nowhere.safetensors"
        return about

    table = pq.read_table(folder / "small.parquet")
    about = {"superbatch": json.dumps(moved(table))}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "t.parquet")
    assert main(["table", "verify", str(tmp_path / "t.parquet")]) == 0
    assert "no loss was computed again: cannot read weights" in capsys.readouterr().out


def test_a_table_of_other_data_is_refused(folder, capsys, tmp_path):
    images, labels = digits()
    np.savez(tmp_path / "other.npz", images=images, labels=labels[::-1])
    words = ["table", "verify", folder / "small.parquet", "--data.path", tmp_path / "other.npz"]
    assert "is a table of other data" in refused(capsys, *words)


def test_new_data_is_appended(folder, capsys, tmp_path):
    images, labels = digits()
    np.savez(tmp_path / "part.npz", images=images[:1000], labels=labels[:1000])
    part = tmp_path / "part.parquet"
    model = folder / "small.safetensors"
    score(model, "--data.path", tmp_path / "part.npz", "--out", part)
    score(model, "--append", part, "--out", tmp_path / "all.parquet")
    whole, appended = (
        pq.read_table(path) for path in (folder / "small.parquet", tmp_path / "all.parquet")
    )
    assert appended["id"].equals(whole["id"])
    # Batches are cut elsewhere, and sums of floats depend on the batch in the last bit or two.
    np.testing.assert_allclose(appended["loss"], whole["loss"], rtol=1e-5)
    assert appended["loss"][:1000].equals(pq.read_table(part)["loss"])
    fingerprints = {
        json.loads(table.schema.metadata[b"superbatch"])["fingerprint"]
        for table in (whole, appended)
    }
    assert len(fingerprints) == 1
    words = ["score", "--out", tmp_path / "no.parquet", "--append", part]
    err = refused(capsys, *words, "--model", folder / "large.safetensors")
    assert "differ in weights of column loss" in err
    other = rewritten(part, tmp_path / "shuffled.parquet", shuffled)
    words = ["score", "--out", tmp_path / "no.parquet", "--append", other]
    assert "are not those of the model" in refused(capsys, *words, "--model", model)


def test_tables_are_merged_and_joined(folder, capsys, tmp_path):
    words = [f"s={folder / 'small.parquet'}", f"l={folder / 'large.parquet'}"]
    out = tmp_path / "joined.parquet"
    assert main(["table", "join", *words, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == ["loss/s", "loss/l"]
    both = pq.read_table(folder / "both.parquet")
    assert pq.read_table(out)["loss/l"].equals(both["loss/large"])
    twice = ["table", "merge", folder / "small.parquet", folder / "small.parquet"]
    assert "is in two of the tables" in refused(capsys, *twice, "--out", tmp_path / "t.parquet")


def test_the_best_fraction_is_written(folder, capsys, tmp_path):
    out = tmp_path / "best.txt"
    words = ["--table", folder / "small.parquet", "--fraction=0.1", "--out", out]
    assert main(["subset", *map(str, words)]) == 0
    assert "180 of 1797 examples, those with low values, in" in capsys.readouterr().out
    wanted = np.sort(np.argsort(pq.read_table(folder / "small.parquet")["loss"].to_numpy())[:180])
    assert [int(line) for line in out.read_text().split()] == wanted.tolist()


def test_the_most_learnable_of_each_class_are_written(folder, capsys, tmp_path):
    out = tmp_path / "best.parquet"
    columns = ["--column=loss/small", "--minus=loss/large", "--fraction=0.25", "--per-class"]
    words = ["subset", "--table", str(folder / "both.parquet"), *columns, "--out", str(out)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keep"] == "high"
    labels = digits()[1]
    both = pq.read_table(folder / "both.parquet")
    score = both["loss/small"].to_numpy() - both["loss/large"].to_numpy()
    wanted = []
    for label in range(10):
        members = np.flatnonzero(labels == label)
        wanted += members[np.argsort(-score[members])[: round(len(members) / 4)]].tolist()
    assert pq.read_table(out)["id"].to_pylist() == sorted(wanted)


def test_a_threshold_within_a_list(folder, capsys, tmp_path):
    (tmp_path / "list.txt").write_text("5\n900\n17\n")
    losses = pq.read_table(folder / "small.parquet")["loss"].to_numpy()
    limit = float(np.sort(losses[[5, 900, 17]])[1])
    words = ["--table", folder / "small.parquet", "--within", tmp_path / "list.txt"]
    words += [f"--threshold={limit!r}", "--out", tmp_path / "few.txt"]
    assert main(["subset", *map(str, words)]) == 0
    kept = [int(line) for line in (tmp_path / "few.txt").read_text().split()]
    assert kept == [example for example in (5, 17, 900) if losses[example] <= limit]
    assert len(kept) == 2


def test_a_column_is_named_as_references_name_it(folder, capsys, tmp_path):
    both = folder / "both.parquet"
    words = ["subset", "--fraction=0.5", "--json"]
    said = refused(capsys, *words, "--table", both, "--out", tmp_path / "no.txt")
    assert f"name one, such as {both}::loss/small" in said
    assert main([*words, f"--table={both}::loss/small", f"--out={tmp_path / 'a.txt'}"]) == 0
    single = ["--table", str(folder / "small.parquet"), "--out", str(tmp_path / "b.txt")]
    assert main([*words, *single]) == 0
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text()
    capsys.readouterr()
    assert main(["table", "verify", f"{both}::loss/large", "--data.path=digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"].keys() == {"loss/large"}


def test_a_list_of_nothing_is_refused(folder, capsys, tmp_path):
    words = ["subset", "--table", folder / "small.parquet", "--out", tmp_path / "none.txt"]
    said = refused(capsys, *words, "--threshold=0.001")
    assert "--threshold 0.001 keeps not one of 1797 examples; their values go from " in said
    assert "--fraction 0.0001 keeps not one of" in refused(capsys, *words, "--fraction=0.0001")
    assert not (tmp_path / "none.txt").exists()


def test_a_model_that_has_diverged_scores_nothing(capsys, tmp_path):
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    state = {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
    save_weights(tmp_path / "nan.safetensors", state, ABOUT)
    words = ["score", "--model", tmp_path / "nan.safetensors", "--out", tmp_path / "t.parquet"]
    said = refused(capsys, *words)
    assert "nan.safetensors has diverged; score with another checkpoint\n" in said
    said = refused(capsys, *words[:3], "--out", tmp_path / "u.parquet", "--bf16")
    assert "u.parquet.parts and try without --bf16" in said


def test_datacomp_metadata_becomes_a_subset_file(tmp_path):
    uids = [f"{number:032x}" for number in (2**70, 5, 2**127)]
    scores = pa.array([0.2, 0.31, 0.29], pa.float32())
    pq.write_table(
        pa.table({"uid": uids, "clip_b32_similarity_score": scores}), tmp_path / "m.parquet"
    )
    words = ["--table", tmp_path / "m.parquet", "--column=clip_b32_similarity_score"]
    words += ["--threshold=0.28", "--out", tmp_path / "s.npy"]
    assert main(["subset", *map(str, words)]) == 0
    assert np.load(tmp_path / "s.npy").tolist() == [(0, 5), (2**63, 0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "--out", "t.parquet"], "needs a checkpoint and a table"),
        (["score", "small", "--out", "t.parquet"], "takes flags only and was given small"),
        (["score", "--model=none.safetensors", "--out=t.parquet"], "no such file"),
        (["score", "--model=a", "--out=t", "--append=t"], "--append and --out are both t"),
        (["score", "--model=a", "--out=t", "--append=s", "--embeddings"], "adds losses only"),
        (
            ["score", "--model=a", "--out=t", "--contrastive.score-patch=16"],
            "--contrastive.score-patch is 16 and a table holds losses at the model's own patch",
        ),
        (["score", "--model=a", "--out=t", "--batch-size=0"], "greater than or equal to 1"),
        (["score", "--model=a", "--out=."], "--out . is a folder; name a file, such as losses.par"),
        (["table"], "table needs one of show, verify, merge, join"),
        (["table", "verify"], "needs one table and was given 0"),
        (["table", "show", "none.parquet"], "there is no table at none.parquet"),
        (["table", "merge", "a.parquet", "--out=b.parquet"], "needs two tables or more"),
        (["table", "join", "a.parquet", "b.parquet", "--out=c"], "needs a name for each table"),
        (["subset", "--table=t", "--out=o"], "either --fraction or --threshold"),
        (["subset", "--fraction=0.5"], "needs a table and a list"),
        (["subset", "--table=t", "--out=o", "--threshold=1", "--per-class"], "give --fraction"),
        (["subset", "--table=none", "--out=o", "--fraction=1"], "there is no table at none"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_another_measure_can_be_kept_and_chosen_from(folder, tmp_path, capsys):
    # Selection via proxy: what a small model is most undecided about, as a list of ids.
    table = tmp_path / "entropy.parquet"
    score(folder / "small.safetensors", "--measure=entropy", "--out", table)
    images, _ = digits()
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float() / 127.5 - 1)
    expected = torch.distributions.Categorical(logits=logits).entropy().numpy()
    assert pq.read_table(table)["loss"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert main(["table", "verify", str(table), "--data.path=digits", "--json"]) == 0
    ids = tmp_path / "ids.txt"
    keep = ["--fraction=0.1", "--keep=high", f"--out={ids}"]
    assert main(["subset", f"--table={table}", *keep, "--json"]) == 0
    highest = np.sort(np.argsort(-expected, kind="stable")[:180])
    assert [int(line) for line in ids.read_text().split()] == highest.tolist()
    said = refused(
        capsys, "train", "classact", "--score-view=plain", f"--reference={table}", "--out", "x"
    )
    assert "was made with the act loss entropy and is to be used with cross_entropy" in said
