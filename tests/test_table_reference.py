"""A table of losses in the place of a reference model."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from superbatch.checkpoint import load_weights, save_weights
from superbatch.cli import main
from superbatch.sources import open_examples
from superbatch.tables import TableFile, fingerprint, write_table


SMALL = "--models.learner=mu-2400/4"
TINY = [
    *("--models.learner=mu-1000/4", "--models.online=mu-2400/4", "--models.reference=mu-2400/4"),
    *("--select.super-batch-size=32", "--select.sub-batch-size=16", "--steps=6"),
    *("--record.evaluate-every=6", "--record.checkpoint-every=2"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """With a trained reference, and digits scored by it."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "uniform", *TINY, "--seed=5", "--out=teacher", SMALL]) == 0
    assert main(["score", "--model=teacher", "--out=digits.parquet"]) == 0
    capsys.readouterr()
    return tmp_path


def train(*flags, code=0):
    assert main(["train", *flags, *TINY]) == code


def chosen(path):
    parts = sorted((path / "selection").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def summary(path):
    return json.loads((path / "summary.json").read_text())


@pytest.mark.parametrize("recipe", ["classact", "rho_loss", "easy_reference"])
def test_a_table_chooses_what_its_model_chooses(recipe, folder):
    augmented = ["--data.flip", "--data.crop-padding=1", "--score-view=plain"]
    train(recipe, "--reference=teacher", "--out=by-model", *augmented)
    train(recipe, "--reference=digits.parquet", "--out=by-table", *augmented)
    by_model, by_table = chosen(folder / "by-model"), chosen(folder / "by-table")
    assert by_table["id"] == by_model["id"]
    assert by_table["chosen"] == by_model["chosen"]
    spent = [summary(folder / name)["flops"] for name in ("by-model", "by-table")]
    scored = [
        sum(role["score"] for role in flops["by_role"].values())
        - (flops["by_role"]["learner"]["score"])
        for flops in spent
    ]
    # ClassAct's two models are of one size, so a table is half of what scoring costs.
    assert scored[1] == {"classact": scored[0] / 2}.get(recipe, 0)
    assert "reference" not in spent[1]["by_role"]
    assert summary(folder / "by-table")["reference"] == {"table": "digits.parquet", "given": True}


def test_a_run_by_a_table_goes_on_where_it_was_interrupted(folder, monkeypatch):
    from superbatch import training

    train("classact", "--reference=digits.parquet", "--out=through")
    after = training.Run._after

    def interrupted(run, step):
        after(run, step)
        if step.number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "_after", interrupted)
    train("classact", "--reference=digits.parquet", "--out=stopped", code=1)
    monkeypatch.setattr(training.Run, "_after", after)
    assert main(["train", "--resume=stopped"]) == 0
    assert chosen(folder / "stopped") == chosen(folder / "through")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.flip"], "add --score-view plain"),
        (["--data.label-noise=0.3"], "digits.parquet"),
        (["--data.image-size=16"], "was made with images of so many pixels a side 8"),
        (["--reference=teacher.parquet"], "teacher.parquet"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, flags, said, capsys):
    reference = (
        [] if any("--reference" in flag for flag in flags) else ["--reference=digits.parquet"]
    )
    train("classact", *reference, *flags, "--out=refused", code=2)
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not (folder / "refused").exists()


def test_the_best_part_by_a_table_is_what_is_trained_on(folder, capsys):
    table = pq.read_table(folder / "digits.parquet")
    assert main(["subset", "--table=digits.parquet", "--fraction=0.25", "--out=best.txt"]) == 0
    train("uniform", "--data.subset=best.txt", "--out=best")
    best = set((folder / "best.txt").read_text().split())
    losses = sorted(zip(table["loss"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert best == {str(example) for _, example in losses[: len(best)]}
    learned = chosen(folder / "best")["id"].to_pylist()
    assert {str(example) for example in learned} <= best
    capsys.readouterr()
    (folder / "other.txt").write_text("5000\n3\n")
    train("uniform", "--data.subset=other.txt", "--out=refused", code=2)
    assert "1 of the 2 ids in other.txt are not in digits, such as 5000" in capsys.readouterr().err


def every_other_row(folder):
    """half.parquet, with the even ids of digits.parquet."""
    whole = TableFile(folder / "digits.parquet")
    kept = np.arange(0, 1797, 2)
    piece = next(whole.pieces()).take(kept)
    about = whole.provenance.model_copy(
        update={"fingerprint": fingerprint(open_examples("digits"), kept)}
    )
    write_table(folder / "half.parquet", about, [piece])


def test_another_model_does_not_score_what_a_table_lacks(folder, capsys):
    every_other_row(folder)
    kept = folder / "teacher" / "checkpoints" / "learner.safetensors"
    weights, about = load_weights(kept)
    other = {name: value + 0.1 for name, value in weights.items()}
    save_weights(folder / "other.safetensors", other, about)
    train(
        *("classact", "--reference=half.parquet", "--reference-missing=other.safetensors"),
        *("--out=refused",),
        code=2,
    )
    said = capsys.readouterr().err
    assert "half.parquet was made with the weights" in said
    for path in (kept, folder / "other.safetensors"):  # both values, and the way out
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in said
    assert "give the checkpoint it was made with" in said
    assert not (folder / "refused").exists()


def test_what_a_table_lacks_is_scored_on_demand_and_counted(folder, capsys):
    every_other_row(folder)
    train("classact", "--reference=half.parquet", "--out=refused", code=2)
    assert "examples have no loss in half.parquet" in capsys.readouterr().err
    train("classact", "--reference=half.parquet", "--reference-missing=teacher", "--out=demand")
    train("classact", "--reference=teacher", "--out=by-model")
    by_model, on_demand = chosen(folder / "by-model"), chosen(folder / "demand")
    assert on_demand["id"] == by_model["id"]
    assert on_demand["chosen"] == by_model["chosen"]
    beside = ["--actors.kind=process", "--actors.max-staleness=0"]
    given = ["--reference=half.parquet", "--reference-missing=teacher"]
    train("classact", *given, *beside, "--out=beside")
    assert chosen(folder / "beside") == on_demand
    assert summary(folder / "beside")["flops"] == summary(folder / "demand")["flops"]
    train("classact", "--reference=half.parquet", *beside, "--out=refused-beside", code=2)
    told = capsys.readouterr().err
    assert "examples have no loss in half.parquet" in told
    assert "Traceback" not in told
    lacking = sum(example % 2 for example in on_demand["id"].to_pylist())
    scored = [
        summary(folder / name)["flops"]["by_role"]["reference"]["score"]
        for name in ("demand", "by-model")
    ]
    assert scored[0] * len(by_model) == scored[1] * lacking
    train("uniform", "--reference-missing=teacher", "--out=alone", code=2)
    assert "no table is given; name it with --reference" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_inputs(folder, monkeypatch, capsys):
    from superbatch import training

    after = training.Run._after

    def interrupted(run, step):
        after(run, step)
        if step.number == 3:
            raise KeyboardInterrupt

    (folder / "list.txt").write_text("\n".join(map(str, range(900))))
    monkeypatch.setattr(training.Run, "_after", interrupted)
    train("uniform", "--data.subset=list.txt", "--out=stopped", code=1)
    monkeypatch.setattr(training.Run, "_after", after)
    (folder / "list.txt").write_text("\n".join(map(str, range(899))))
    assert main(["train", "--resume=stopped"]) == 2
    assert "the examples to train on, or their order of stopped changed" in capsys.readouterr().err
    (folder / "list.txt").write_text("\n".join(map(str, range(900))))
    assert main(["train", "--resume=stopped"]) == 0


def test_a_reference_with_the_classes_in_another_order_is_refused(folder, capsys):
    weights, about = load_weights(folder / "teacher" / "checkpoints" / "learner.safetensors")
    about["class_names"] = [str(number) for number in (1, 0, *range(2, 10))]
    save_weights(folder / "other.safetensors", weights, about)
    train("classact", "--reference=other.safetensors", "--out=refused", code=2)
    assert "learned '0' as class 1 and in the data it is 0" in capsys.readouterr().err
