import json

import numpy as np
import pytest
from made_runs import write_rich_run, write_run

from superbatch.report.charts import curves_chart, diagnostics_charts, numbers, scaling_chart
from superbatch.report.classes import class_changes
from superbatch.report.costs import flops_by_role, seconds_by_phase
from superbatch.report.curves import POINTS, recipe_curve
from superbatch.report.page import build_page
from superbatch.report.read import read_run, read_runs
from superbatch.report.settings import read_settings
from superbatch.report.speedup import compare_runs
from superbatch.report.verdict import verdict


def said(tmp_path, **options):
    return verdict(compare_runs(read_runs([tmp_path]), **options))


# Verdicts


def test_the_verdict_says_what_paid(tmp_path):
    # 0.5 at 100 of 200 updates; at 15 FLOPs a step 1500 of 2000, at 12 in the paper's 1200.
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    write_run(tmp_path / "c", {100: 0.5, 200: 0.6}, recipe="c", paper=12, full=15, second=3)
    answer = said(tmp_path)
    assert answer.headline == (
        "c pays: it reached the best val/accuracy of uniform with 50.0\u00a0% fewer learner "
        "updates and 25.0\u00a0% fewer FLOPs in all."
    )
    costs = "c took 40.0\u00a0% fewer FLOPs in the paper's accounting and 50.0\u00a0% more seconds."
    assert answer.details[0] == costs
    assert "differs from uniform's by +0.1000, with one seed" in answer.details[1]


def test_the_verdict_puts_what_pays_most_first(tmp_path):
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    write_run(tmp_path / "a", {100: 0.5, 200: 0.6}, recipe="dear", full=30)
    write_run(tmp_path / "b", {150: 0.5, 200: 0.6}, recipe="saver")
    write_run(tmp_path / "c", {100: 0.3, 200: 0.4}, recipe="weak")
    answer = said(tmp_path)
    assert answer.headline.startswith("saver pays")
    order = [detail.split(" ")[0] for detail in answer.details]
    assert order == ["saver", "The", "dear", "dear", "The", "weak", "The"]
    assert any(detail.startswith("dear does not pay") for detail in answer.details)
    assert "weak never reached the best val/accuracy of uniform." in answer.details


def test_the_verdict_says_when_some_seeds_reach(tmp_path):
    for seed, last in enumerate((0.6, 0.4)):
        write_run(tmp_path / f"u{seed}", {100: 0.3, 200: 0.5}, seed=seed)
        write_run(tmp_path / f"c{seed}", {100: 0.3, 200: last}, recipe="c", seed=seed)
    answer = said(tmp_path)
    assert answer.headline.endswith("with 1 of 2 seeds only.")
    # Differences +0.1 and -0.1: around 0.
    assert any("which could be chance" in detail for detail in answer.details)


def test_the_verdict_counts_pairs(tmp_path):
    for seed in range(3):
        if seed < 2:
            write_run(tmp_path / f"u{seed}", {100: 0.3, 200: 0.5}, seed=seed)
        write_run(tmp_path / f"c{seed}", {100: 0.5, 200: 0.6 + seed / 100}, recipe="c", seed=seed)
    write_run(tmp_path / "d", {100: 0.5}, recipe="d", seed=5)
    answer = said(tmp_path)
    assert answer.headline.startswith("c pays: it reached the best val/accuracy of uniform with")
    (interval,) = [detail for detail in answer.details if "95" in detail]
    assert ", 2 seeds)" in interval
    assert "c, seed 2 has no uniform run of its seed." in answer.details
    assert "d has no run of a seed of uniform's to be held against." in answer.details
    assert not any(detail.startswith("d never reached") for detail in answer.details)


def test_the_verdict_says_that_one_baseline_run_is_one_draw(tmp_path):
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    for seed in range(3):
        write_run(tmp_path / f"c{seed}", {100: 0.5, 200: 0.6}, recipe="c", seed=seed)
    assert (
        "The final val/accuracy of c differs from uniform's by +0.1000, 3 seeds against one run of "
        "uniform; as many of its seeds would show whether that is chance."
    ) in said(tmp_path).details


def test_the_verdict_without_anything_to_compare(tmp_path):
    write_run(tmp_path / "u", {}, steps=10, finished=False)
    assert "baseline uniform only" in said(tmp_path).headline
    assert "no baseline" in said(tmp_path, baseline=None).headline
    write_run(tmp_path / "c", {}, steps=10, recipe="c", finished=False)
    answer = said(tmp_path)
    assert answer.headline == "No run has been evaluated yet."
    assert "c, seed 0 is unfinished (step 0 of 10): its numbers are so far." in answer.details


# Curves


def test_the_mean_curve_is_over_the_steps_that_all_seeds_have(tmp_path):
    write_run(tmp_path / "a", {10: 0.2, 20: 0.4, 30: 0.9}, second=1)
    write_run(tmp_path / "b", {10: 0.4, 20: 0.8}, seed=1, steps=30, second=3)
    curve = recipe_curve(read_runs([tmp_path]), "val/accuracy", 1)
    np.testing.assert_allclose(curve.mean.raw, [0.3, 0.6])
    # Deviations with n - 1: |0.2 - 0.4| / sqrt(2), |0.4 - 0.8| / sqrt(2).
    np.testing.assert_allclose(curve.mean.raw_std, [0.2 / 2**0.5, 0.4 / 2**0.5])
    np.testing.assert_allclose(curve.mean.x["seconds"], [20, 40])
    assert curve.seeds[0].raw.tolist() == [0.2, 0.4, 0.9]
    assert recipe_curve(read_runs([tmp_path]), "val/other", 1) is None


def test_long_curves_keep_their_ends(tmp_path):
    write_run(tmp_path / "a", {step: step / 1000 for step in range(1, 1001)})
    line = recipe_curve(read_runs([tmp_path]), "val/accuracy", 1).seeds[0]
    assert len(line.raw) == POINTS
    assert (line.raw[0], line.raw[-1]) == (0.001, 1.0)


def test_charts_are_valid_json_whatever_the_numbers(tmp_path):
    folder = write_run(tmp_path / "u", {10: 0.5, 20: 0.6})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "val/accuracy": NaN, "selection/new_thing": Infinity}\n')
        file.write('{"step": 40, "selection/new_thing": 1.5}\n')
    runs = {"uniform": [read_run(folder)]}
    comparison = compare_runs(runs["uniform"])
    chart = curves_chart(runs, comparison)
    json.dumps(chart, allow_nan=False)
    assert chart["metrics"] == [{"key": "val/accuracy", "target": 0.6}]
    assert chart["curves"]["val/accuracy"][0]["mean"]["x"]["step"] == [10, 20]
    (one,) = diagnostics_charts(runs)
    assert (one["title"], one["lines"][0]["y"]) == ("new thing", [1.5])
    assert numbers(np.array([1 / 3, np.nan, np.inf])) == [0.333333, None, None]


def test_scaling_needs_three_budgets(tmp_path):
    # 0.9 - 4 / sqrt(steps): 0.5, 0.7, 0.8 at 100, 400, 1600.
    for steps, value in ((100, 0.5), (400, 0.7), (1600, 0.8)):
        write_run(tmp_path / f"u{steps}", {steps: value})
    write_run(tmp_path / "c", {100: 0.6}, recipe="c")
    (series,) = scaling_chart(compare_runs(read_runs([tmp_path])))["series"]
    assert series["name"] == "uniform"
    assert series["offset"]["mean"] == pytest.approx(0.9, abs=1e-4)
    assert series["exponent"]["mean"] == pytest.approx(0.5, abs=1e-3)
    assert scaling_chart(compare_runs(read_runs([tmp_path / "u100", tmp_path / "c"]))) is None


# Costs, classes, settings


def finish(folder, **summary):
    (folder / "summary.json").write_text(json.dumps(summary))


def test_costs_are_means_over_finished_seeds(tmp_path):
    base = write_run(tmp_path / "u", {10: 0.5})
    finish(base, flops={"by_role": {"learner": {"learn": 100, "score": 0, "evaluate": 50}}})
    for seed, learn in enumerate((90, 110)):
        folder = write_run(tmp_path / f"c{seed}", {10: 0.5}, recipe="c", seed=seed)
        by_role = {"learner": {"learn": learn}, "online": {"score": 60}}
        finish(folder, flops={"by_role": by_role}, seconds={"by_phase": {"data": 2 + seed}})
    write_run(tmp_path / "c2", {10: 0.5}, recipe="c", seed=2, finished=False)
    runs = read_runs([tmp_path])
    by_recipe = {name: [run for run in runs if run.recipe == name] for name in ("uniform", "c")}
    uniform, other = flops_by_role(by_recipe).bars
    assert [(part.name, part.value) for part in uniform.parts] == [("learner: learn", 100)]
    assert [(part.name, part.value) for part in other.parts] == [
        ("learner: learn", 100),
        ("online: score", 60),
    ]
    assert (other.total, other.relative) == (160, 1.6)
    assert uniform.parts[0].share == 100 / 160
    (seconds,) = seconds_by_phase(by_recipe).bars
    assert (seconds.recipe, seconds.total) == ("c", 2.5)


def test_class_changes_are_paired_means_most_lost_first(tmp_path):
    def run(name, recipe, seed, accuracies):
        folder = write_run(tmp_path / name, {10: 0.5}, recipe=recipe, seed=seed)
        finish(folder, val={"per_class": accuracies, "class_names": ["cat", "dog"]})

    run("u0", "uniform", 0, [0.5, 0.6])
    run("u1", "uniform", 1, [0.7, 0.6])
    run("c0", "c", 0, [0.9, 0.4])
    run("c1", "c", 1, [0.7, 0.6])
    write_run(tmp_path / "c2", {10: 0.5}, recipe="c", seed=0, finished=False, steps=20)
    comparison = compare_runs(read_runs([tmp_path / name for name in ("u0", "u1", "c0", "c1")]))
    found = class_changes(comparison, "c")
    dog, cat = found.changes
    assert found.left_out == 0
    assert (dog.name, cat.name) == ("dog", "cat")
    assert dog.change == pytest.approx(-0.1)
    assert (cat.baseline, cat.accuracy) == pytest.approx((0.6, 0.8))


def test_classes_that_evaluation_has_no_example_of_are_left_out(tmp_path):
    # Sorted with NaN among them, the others would keep the order of their names.
    for recipe, accuracies in (
        ("uniform", [None, 0.8, 0.9, 0.7]),
        ("c", [None, 0.9, 0.4, 0.75]),
    ):
        folder = write_run(tmp_path / recipe, {10: 0.5}, recipe=recipe)
        finish(folder, val={"per_class": accuracies, "class_names": list("abcd")})
    runs = read_runs([tmp_path])
    comparison = compare_runs(runs)
    found = class_changes(comparison, "c")
    assert found.left_out == 1
    assert [(one.name, round(one.change, 2)) for one in found.changes] == [
        ("c", -0.5),
        ("d", 0.05),
        ("b", 0.1),
    ]
    page = build_page(runs, comparison)
    assert "The worst class is c at 0.400; the baseline's worst is d at 0.700." in page
    assert "1 more class has no example to evaluate and is left out." in page
    assert "nan" not in page[page.index('id="classes"') : page.index('id="gallery"')]


def test_settings_show_what_differs_and_how_to_repeat(tmp_path):
    folders = [
        write_rich_run(tmp_path / f"{recipe}{seed}", recipe=recipe, seed=seed, steps=20)
        for recipe, seed in (("uniform", 0), ("c", 0), ("c", 1))
    ]
    environment = {"command": ["/opt/bin/superbatch", "compare", "--out", "a b"], "torch": "2.15"}
    for folder in folders[1:]:
        (folder / "environment.json").write_text(json.dumps(environment))
    uniform, *others = read_runs(folders)
    settings = read_settings({"uniform": [uniform], "c": others})
    assert settings.differences == (("select.criterion", ("uniform", "c")),)
    assert settings.commands[1] == ("superbatch compare --out 'a b'", ("c, seed 0", "c, seed 1"))
    assert ("torch", ("-", "2.15")) in settings.environment
