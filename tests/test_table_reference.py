"""A table of losses in the place of a reference model."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from superbatch.cli import main


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
