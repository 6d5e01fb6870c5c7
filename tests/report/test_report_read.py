import json

import numpy as np
import pytest
from made_runs import write_run

from superbatch.errors import RunError
from superbatch.report.read import check_comparable, read_run, read_runs


def test_columns_hold_nan_where_a_line_lacks_the_name(tmp_path):
    folder = write_run(tmp_path / "a", {10: 0.5, 20: 0.6}, recipe="hard", seed=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "learner/loss": 1.5}\n')
    run = read_run(folder)
    assert (run.recipe, run.seed, run.horizon, run.state) == ("hard", 3, 20, "finished")
    np.testing.assert_array_equal(run.metrics["learner/loss"], [np.nan, np.nan, 1.5])
    x, y = run.curve("val/accuracy", "flops/full")
    assert x.tolist() == [100, 200]
    assert y.tolist() == [0.5, 0.6]
    assert run.curve("val/never")[0].tolist() == []


@pytest.mark.parametrize("tail", ['{"step": 30, "val/acc', '{"step": 30, "val/acc\n', "\x00\x00\n"])
def test_a_truncated_last_line_is_left_out(tmp_path, tail):
    folder = write_run(tmp_path / "a", {10: 0.5, 20: 0.6}, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(tail)
    run = read_run(folder)
    assert run.metrics["step"].tolist() == [10, 20]
    assert run.state == "unfinished"
    assert run.last_step == 20


def test_a_step_logged_again_after_a_resume_counts_as_logged_last(tmp_path):
    folder = write_run(tmp_path / "a", {10: 0.5, 20: 0.6, 30: 0.7})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "val/accuracy": 0.65}\n{"step": 25, "val/accuracy": 0.8}\n')
    run = read_run(folder)
    assert run.curve("val/accuracy")[0].tolist() == [10, 20, 25, 30]
    assert run.curve("val/accuracy")[1].tolist() == [0.5, 0.65, 0.8, 0.7]


def test_a_run_that_has_only_begun_has_no_metrics(tmp_path):
    folder = write_run(tmp_path / "a", {}, finished=False)
    (folder / "metrics.jsonl").unlink()
    (folder / "environment.json").unlink()
    run = read_run(folder)
    assert run.metrics == {}
    assert run.environment == {}
    assert run.last_step == 0


@pytest.mark.parametrize("broken", ["{", "[1, 2]", '"text"', "{}"])
def test_a_broken_line_before_the_last_is_refused_with_its_number(tmp_path, broken):
    folder = write_run(tmp_path / "a", {10: 0.5, 20: 0.6})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], broken, lines[1]]))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 of 3 is broken"):
        read_run(folder)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "summary.json"])
def test_a_broken_file_is_refused_by_name(tmp_path, name):
    folder = write_run(tmp_path / "a", {10: 0.5})
    (folder / name).write_text('{"recipe": ')
    with pytest.raises(RunError, match=rf"{name} is not valid JSON"):
        read_run(folder)


def test_what_is_no_run_folder_is_refused_and_says_why(tmp_path):
    with pytest.raises(RunError, match="is empty"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="is not a folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunError, match=r"has no config\.json"):
        read_run(tmp_path)
    with pytest.raises(RunError, match=r"has no config\.json"):
        read_runs([tmp_path])


def test_a_folder_of_run_folders_stands_for_its_runs(tmp_path):
    for recipe in ("uniform", "classact"):
        for seed in (1, 0):
            write_run(tmp_path / f"{recipe}-seed{seed}", {10: 0.5}, recipe=recipe, seed=seed)
    (tmp_path / "not-yet").mkdir()
    runs = read_runs([tmp_path, tmp_path / "uniform-seed0"])
    names = [run.folder.name for run in runs]
    assert names == ["classact-seed0", "classact-seed1", "uniform-seed0", "uniform-seed1"]


def test_other_data_is_refused_with_both_values(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a", {10: 0.5}, data="data/digits")),
        read_run(write_run(tmp_path / "b", {10: 0.5}, data="data/noisy")),
    ]
    with pytest.raises(RunError, match=r"data/digits.*data/noisy"):
        check_comparable(runs, allow_mixed=True)


@pytest.mark.parametrize(("field", "value"), [("caption_noise", 0.4), ("image_size", 64)])
def test_other_pairs_and_sizes_are_other_data(tmp_path, field, value):
    runs = []
    for name, data in (("old", {}), ("new", {"caption_noise": 0.0}), ("other", {field: value})):
        folder = write_run(tmp_path / name, {10: 0.5})
        config = json.loads((folder / "config.json").read_text())
        config["data"] |= data
        (folder / "config.json").write_text(json.dumps(config))
        runs.append(read_run(folder))
    old, new, other = runs
    check_comparable([old, new])
    with pytest.raises(RunError, match=rf"data\.{field} is .* and '{value}' in .*other"):
        check_comparable([old, other])


def test_the_same_data_may_be_spelled_differently(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a", {10: 0.5}, data="data/digits")),
        read_run(write_run(tmp_path / "b", {10: 0.5}, data="./data//digits")),
    ]
    check_comparable(runs)


def test_other_horizons_are_refused_unless_allowed(tmp_path):
    folders = [
        write_run(tmp_path / "a", {10: 0.5}, steps=100),
        write_run(tmp_path / "b", {10: 0.5}, steps=75),
    ]
    with pytest.raises(RunError, match=r"100 steps.*75.*--allow-mixed"):
        check_comparable(read_runs(folders))
    check_comparable(read_runs(folders), allow_mixed=True)


def test_numbers_that_are_not_numbers_do_not_stop_a_read(tmp_path):
    folder = write_run(tmp_path / "a", {10: 0.5})
    row = {"step": 20, "val/accuracy": None, "note": "text", "val/loss": float("nan")}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    run = read_run(folder)
    assert run.curve("val/accuracy")[0].tolist() == [10]
    assert "note" not in run.metrics
