import json
from pathlib import Path

import pytest
from made_runs import write_rich_run, write_run

from superbatch.cli import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of two runs: 0.5 after 100 of 200 updates."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "out" / "uniform-seed0", {100: 0.3, 200: 0.5})
    write_run(tmp_path / "out" / "classact-seed0", {100: 0.5, 200: 0.6}, recipe="classact")
    return tmp_path / "out"


def test_json_is_all_that_is_printed_and_no_page_is_written(runs, capsys):
    assert main(["report", str(runs), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["baseline"] == "uniform"
    assert value["runs"][1]["learner_speedup"] == 0.5
    assert not Path("report.html").exists()


def test_a_page_is_written_where_asked_and_the_numbers_are_printed(runs, capsys):
    assert main(["report", str(runs), "--out", "pages/my.html"]) == 0
    page = Path("pages/my.html").read_text()
    assert page.startswith("<!doctype html>")
    # The data of these runs does not exist.
    assert "the data could not be opened" in page
    printed = capsys.readouterr().out
    assert "+50.0 %" in printed
    assert "classact pays" in printed
    assert "wrote pages/my.html" in printed


def test_the_page_is_report_html_by_default(runs):
    assert main(["report", str(runs / "uniform-seed0"), str(runs / "classact-seed0")]) == 0
    assert Path("report.html").is_file()


def test_figures_are_the_same_files_for_the_same_runs(runs):
    pytest.importorskip("matplotlib")
    for folder in ("one", "two"):
        assert main(["report", str(runs), "--json", "--figures", folder]) == 0
    names = sorted(path.name for path in Path("one").iterdir())
    assert names == [
        "val-accuracy-over-flops-full.pdf",
        "val-accuracy-over-flops-full.svg",
        "val-accuracy-over-step.pdf",
        "val-accuracy-over-step.svg",
    ]
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    assert "classact" in Path("one", "val-accuracy-over-step.svg").read_text()


def test_another_baseline_metric_and_smoothing(runs, capsys):
    flags = ["--baseline", "classact", "--smooth", "3", "--json"]
    assert main(["report", str(runs), *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["baseline"] == "classact"
    # Medians over the only two values of each: 0.55 and 0.4.
    assert value["runs"][0]["best"] == pytest.approx(0.55)
    assert value["runs"][1]["learner_speedup"] is None
    base = str(runs / "classact-seed0")
    assert main(["report", str(runs), "--baseline", base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "classact"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no runs to compare"),
        (["empty"], "is empty"),
        (["out", "--metric", "val/top9"], "no run logged 'val/top9'; they have val/accuracy"),
        (["out", "--baseline", "hard"], "no run of the baseline 'hard'"),
        (["out", "--smooth", "0"], "smooth (0)"),
        (["out", "--out", "empty"], "--out empty is a folder"),
        (["out", "long"], "--allow-mixed"),
        (["out", "other"], "'elsewhere'"),
    ],
)
def test_what_cannot_work_is_refused_with_two_and_one_sentence(runs, capsys, arguments, message):
    Path("empty").mkdir()
    write_run(Path("long"), {100: 0.5}, steps=400, recipe="long")
    write_run(Path("other"), {200: 0.5}, recipe="other", data="elsewhere")
    assert main(["report", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert "Traceback" not in complaint


def test_runs_on_pairs_need_no_metric_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recalls = {
        "val/mean_recall": {100: 0.3, 200: 0.5},
        "val/image_to_text_r1": {100: 0.1, 200: 0.2},
    }
    for recipe in ("clip", "active_clip"):
        folder = write_run(Path(recipe), recalls["val/mean_recall"], recipe=recipe)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            del row["val/accuracy"]
            row |= {name: values[row["step"]] for name, values in recalls.items()}
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["report", "clip", "active_clip", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["metric"], value["baseline"]) == ("val/mean_recall", "clip")
    assert value["runs"][0]["best"] == 0.5
    other = ["--metric", "val/image_to_text_r1"]
    assert main(["report", "clip", "active_clip", "--json", *other]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["metric"], value["runs"][0]["best"]) == ("val/image_to_text_r1", 0.2)


def test_mixed_horizons_are_compared_when_allowed(runs, capsys):
    write_run(Path("long"), {100: 0.5, 400: 0.6}, recipe="long")
    assert main(["report", "out", "long", "--allow-mixed", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["recipe"] for run in runs] == ["uniform", "classact", "long"]


def test_pictures_of_the_training_data_are_in_the_page(runs, monkeypatch):
    pytest.importorskip("sklearn")
    write_rich_run(Path("c"), recipe="classact", seed=0, steps=20, pool=1000, data="digits")
    config = json.loads(Path("c/config.json").read_text())
    config["data"] = {"path": "digits", "label_noise": 0.2}
    config["select"] |= {"criterion": "learnability"}
    Path("c/config.json").write_text(json.dumps(config))
    assert main(["report", "c"]) == 0
    page = Path("report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 48
    assert "truly" in page
