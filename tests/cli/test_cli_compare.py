"""``superbatch compare`` end to end, as small as it gets."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from superbatch import training
from superbatch.cli import main
from superbatch.cli.confirm import Trial, confirming_runs, trials
from superbatch.recipes import recipe
from superbatch.reference_run import reference_config
from superbatch.report.read import read_runs
from superbatch.report.speedup import compare_runs


COMPARE = [
    "compare",
    "uniform",
    "classact_ho",
    "--seeds=2",
    "--steps=4",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--models.reference=mu-2400/4",
    "--select.super-batch-size=32",
    "--select.sub-batch-size=16",
    "--record.log-every=1",
    "--record.evaluate-every=2",
]
RUNS = ["uniform-seed0", "classact_ho-seed0", "uniform-seed1", "classact_ho-seed1"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_times(comparison):
    """``comparison`` without what differs from one run of the same to the next."""

    def timeless(row):
        return {name: value for name, value in row.items() if not name.startswith("seconds")}

    return {
        "metric": comparison["metric"],
        "baseline": comparison["baseline"],
        "runs": [timeless(row) for row in comparison["runs"]],
        "summary": [timeless(row) for row in comparison["summary"]],
    }


def configuration(run):
    return json.loads((run / "config.json").read_text())


def test_two_recipes_with_two_seeds(tmp_path, capsys):
    assert main([*COMPARE, "--out=both", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    comparison = json.loads(out)
    assert comparison["metric"] == "val/accuracy"
    assert comparison["baseline"] == "uniform"
    assert {(row["recipe"], row["seed"]) for row in comparison["runs"]} == {
        (recipe, seed) for recipe in ("uniform", "classact_ho") for seed in (0, 1)
    }
    for row in comparison["runs"]:
        assert {
            "recipe",
            "seed",
            "best",
            "final",
            "updates_to_baseline",
            "learner_speedup",
            "compute_speedup_paper",
            "compute_speedup_full",
            "seconds_speedup",
        } <= row.keys()
    assert [row["recipe"] for row in comparison["summary"]] == ["uniform", "classact_ho"]
    for row in comparison["summary"]:
        assert row["final"].keys() >= {"mean", "std"}

    both = tmp_path / "both"
    assert sorted(run.name for run in both.iterdir() if (run / "summary.json").exists()) == sorted(
        RUNS
    )
    for run in RUNS:
        final = json.loads((both / run / "summary.json").read_text())["val"]["accuracy"]
        recipe, _, seed = run.partition("-seed")
        (row,) = (
            row for row in comparison["runs"] if (row["recipe"], row["seed"]) == (recipe, int(seed))
        )
        assert row["final"] == final


def test_all_recipes_share_data_and_references(tmp_path, capsys):
    three = [*COMPARE[:2], "rho_loss", *COMPARE[2:], "--out=three"]
    assert main(three) == 0
    assert "run folder three/uniform-seed0" in capsys.readouterr().out
    runs = {run: tmp_path / "three" / run for run in [*RUNS, "rho_loss-seed0", "rho_loss-seed1"]}
    # What one recipe holds out, no learner sees; nor what is evaluated on.
    data = [configuration(run)["data"] for run in runs.values()]
    assert all(one == data[0] for one in data)
    assert data[0]["holdout_fraction"] == 0.5
    # One reference a seed, though two recipes use it; each pays for it in full.
    references = list((tmp_path / "three" / "references").iterdir())
    assert len(references) == 2
    held_out = {name for name in runs if not name.startswith("uniform")}
    for name in held_out:
        summary = json.loads((runs[name] / "summary.json").read_text())
        assert summary["flops"]["by_role"]["reference"]["pretrain"] > 0
        assert not (runs[name] / "reference").exists()
    # The same first examples, whoever chooses from them.
    first = [
        pq.read_table(next((runs[name] / "selection").glob("*.parquet")))["id"].to_pylist()
        for name in sorted(runs)
        if name.endswith("seed0")
    ]
    assert first[0][:16] == first[1][:16] == first[2][:16]


def test_the_same_command_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    assert main([*COMPARE, "--out=through", "--json"]) == 0
    through = json.loads(capsys.readouterr().out)

    after = training.Run._after
    turns = 0

    def interrupted(run, step):
        nonlocal turns
        turns += 1
        if turns == 13:  # 4 of uniform, 4 of a reference, 4 of classact_ho, and 1 of the next seed
            raise KeyboardInterrupt
        after(run, step)

    monkeypatch.setattr(training.Run, "_after", interrupted)
    assert main([*COMPARE, "--out=parts", "--json"]) == 1
    assert capsys.readouterr().err == "superbatch: interrupted\n"
    done = [run for run in RUNS if (tmp_path / "parts" / run / "summary.json").exists()]
    assert done == RUNS[:2]
    stamps = {run: (tmp_path / "parts" / run / "summary.json").stat().st_mtime_ns for run in done}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([*COMPARE, "--out=parts", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert without_times(parts) == without_times(through)
    for run, stamp in stamps.items():
        assert (tmp_path / "parts" / run / "summary.json").stat().st_mtime_ns == stamp


def test_a_comparison_does_not_go_on_with_other_data(tmp_path, monkeypatch, capsys):
    def write(shift):
        images = np.random.default_rng(0).integers(0, 256, (90, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "a.npz", images=images, labels=(np.arange(90) + shift) % 3)

    write(0)
    command = ["compare", "uniform", "rs2", *COMPARE[4:], "--data.path=a.npz", "--out=both"]
    start = training.start

    def one_run(config, around):
        if config.recipe == "rs2":
            raise KeyboardInterrupt
        return start(config, around)

    monkeypatch.setattr(training, "start", one_run)
    assert main(command) == 1
    monkeypatch.setattr(training, "start", start)
    write(1)
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "both/uniform-seed0 learned from other data than a.npz is now" in said
    assert "put it back, or compare in a new --out" in said
    assert not (tmp_path / "both" / "rs2-seed0").exists()
    write(0)
    assert main(command) == 0
    write(1)  # all is trained: nobody opens it
    assert main(command) == 0


def test_a_kill_while_the_plan_is_written_is_no_plan(tmp_path, capsys):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / ".plan.json.0a1b2c3d").write_text("[")
    assert main([*COMPARE, "--out=both"]) == 0
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".plan.json.markdown").write_text("mine")
    assert main([*COMPARE, "--out=other"]) == 2
    assert "other exists and is no comparison; give a new --out" in capsys.readouterr().err


def test_a_reference_that_is_given_serves_the_recipes_that_use_one(tmp_path, capsys):
    tiny = [flag for flag in COMPARE[3:] if not flag.startswith("--seeds")]
    assert main(["train", "uniform", *tiny, "--models.learner=mu-2400/4", "--out=teacher"]) == 0
    given = "--reference=teacher"
    assert main(["compare", "uniform", "classact", *tiny, given, "--out=given"]) == 0
    assert configuration(tmp_path / "given" / "uniform-seed0")["reference"] is None
    assert configuration(tmp_path / "given" / "classact-seed0")["reference"] == "teacher"
    assert not (tmp_path / "given" / "references").exists()
    capsys.readouterr()
    assert main(["train", "uniform", *tiny, given, "--out=alone"]) == 2
    assert "criterion uniform scores without a reference" in capsys.readouterr().err
    assert not (tmp_path / "alone").exists()


def test_confirm_runs_what_the_curve_promises(tmp_path, capsys):
    # rs2 costs what uniform costs: the baseline "at its compute" is the same length again.
    command = ["compare", "uniform", "rs2", *COMPARE[3:], "--confirm", "--json", "--out=confirmed"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    equal = [row for row in told["confirmation"] if row["question"] == "as much compute as rs2"]
    assert [(row["recipe"], row["steps"]) for row in equal] == [("uniform", 4)]
    again = configuration(tmp_path / "confirmed" / "confirm" / "uniform-4-seed1")
    assert (again["steps"], again["seed"]) == (4, 1)
    # The same run again comes to the same: uniform's final accuracy, seed by seed.
    finals = [run["final"] for run in told["runs"] if run["recipe"] == "uniform"]
    assert equal[0]["final"]["mean"] == pytest.approx(sum(finals) / 2)
    assert equal[0]["baseline_best"] == pytest.approx(
        sum(run["best"] for run in told["runs"] if run["recipe"] == "uniform") / 2
    )


def test_what_is_confirmed_has_the_reference_that_it_had(tmp_path):
    config = recipe("classact").changed(steps=400, out=str(tmp_path / "run"))
    ((_, again),) = confirming_runs([Trial("sooner?", "classact", 120)], [config], tmp_path)
    assert again.steps == 120
    before, after = (reference_config(one, {}) for one in (config, again))
    assert (before.steps, after) == (400, before)


def made_run(folder, recipe, seed, *, flops, accuracies):
    """A finished run of 100 updates, evaluated after every 50."""
    folder.mkdir(parents=True)
    config = {"recipe": recipe, "seed": seed, "steps": 100, "task": "classification"}
    lines = [
        {"step": 50 * number, "seconds": number, "flops/paper": number, "flops/full": number}
        | {"val/accuracy": accuracy}
        for number, accuracy in enumerate(accuracies, 1)
    ]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "summary.json").write_text(json.dumps({"flops": {"full": flops}}))


def test_what_is_confirmed_worked_by_hand(tmp_path):
    for seed in (0, 1):
        made_run(tmp_path / f"u{seed}", "uniform", seed, flops=80, accuracies=[0.3, 0.5])
        made_run(tmp_path / f"h{seed}", "hard", seed, flops=100, accuracies=[0.3, 0.4])
    # uniform's best, 0.5, lies a quarter and three quarters of the way from 50 to 100 updates
    made_run(tmp_path / "c0", "classact", 0, flops=110, accuracies=[0.45, 0.65])
    made_run(tmp_path / "c1", "classact", 1, flops=130, accuracies=[0.35, 0.55])
    found = trials(compare_runs(read_runs([tmp_path])), 100)
    assert found == [
        Trial("the baseline's best, sooner?", "classact", 75),
        Trial("as much compute as classact", "uniform", 150),
        Trial("as much compute as hard", "uniform", 125),
    ]
