import math
from dataclasses import replace

import numpy as np
import pytest
from made_runs import write_run

from superbatch.errors import RunError
from superbatch.report.read import read_run, read_runs
from superbatch.report.speedup import compare_runs, default_metric, first_reach, smoothed


# The baseline's best, 0.6, first comes at step 400: 4000 FLOPs, 400 s.
BASELINE = {100: 0.2, 200: 0.4, 300: 0.5, 400: 0.6, 500: 0.55}


def column(*values):
    return np.array(values, dtype=np.float64)


def compare(tmp_path, values, **costs):
    write_run(tmp_path / "uniform", BASELINE)
    write_run(tmp_path / "classact", values, recipe="classact", **costs)
    comparison = compare_runs(read_runs([tmp_path]))
    return next(result for result in comparison.results if result.recipe == "classact")


def test_reached_exactly_at_an_evaluation(tmp_path):
    # 0.6 at step 300: a quarter of the updates saved; 3600 FLOPs of 4000 in the paper's
    # accounting, 4500 in the full one.
    result = compare(
        tmp_path, {100: 0.3, 200: 0.5, 300: 0.6, 400: 0.7, 500: 0.68}, paper=12, full=15
    )
    assert result.updates_to_baseline == 300
    assert result.learner_speedup == pytest.approx(0.25, abs=1e-12)
    assert result.compute_speedup_paper == pytest.approx(0.10, abs=1e-12)
    assert result.compute_speedup_full == pytest.approx(1 - 4500 / 4000, abs=1e-12)
    assert result.seconds_speedup == pytest.approx(0.25, abs=1e-12)
    assert (result.best, result.final) == (0.7, 0.68)
    # The baseline ends at 0.55, below its best.
    assert result.final_difference == pytest.approx(0.13, abs=1e-12)


def test_reached_between_two_evaluations(tmp_path):
    # 0.5 at 200 and 0.7 at 300: 0.6 half way, step 250. FLOPs there: 100 + 250 x 12 = 3100, and
    # 100 + 250 x 15 = 3850, of 4000. Seconds: 500 of 400.
    values = {100: 0.3, 200: 0.5, 300: 0.7, 500: 0.8}
    result = compare(tmp_path, values, paper=12, full=15, start=100, second=2)
    assert result.updates_to_baseline == pytest.approx(250)
    assert result.learner_speedup == pytest.approx(0.375)
    assert result.compute_speedup_paper == pytest.approx(0.225)
    assert result.compute_speedup_full == pytest.approx(0.0375)
    assert result.seconds_speedup == pytest.approx(-0.25)


def test_never_reached_is_none(tmp_path):
    result = compare(tmp_path, {100: 0.3, 200: 0.5, 300: 0.59, 500: 0.5999})
    assert result.updates_to_baseline is None
    assert result.learner_speedup is None
    assert result.compute_speedup_paper is None
    assert result.compute_speedup_full is None
    assert result.seconds_speedup is None
    assert result.best == 0.5999


def test_reached_before_the_first_evaluation_counts_as_at_it(tmp_path):
    assert compare(tmp_path, {100: 0.7, 500: 0.8}).updates_to_baseline == 100


def test_an_outlier_best_sets_the_target_only_without_smoothing(tmp_path):
    # Medians over 3: .3 .3 .4 .5 .5 .5; the best, 0.5, first at step 400.
    baseline = {100: 0.2, 200: 0.3, 300: 0.9, 400: 0.4, 500: 0.5, 600: 0.5}
    # Medians over 3: .4 .4 .5 .6 .6 .6; 0.5 at step 300, so 1 - 300 / 400 is saved.
    values = {100: 0.3, 200: 0.4, 300: 0.5, 400: 0.6, 500: 0.6, 600: 0.6}
    write_run(tmp_path / "uniform", baseline)
    write_run(tmp_path / "classact", values, recipe="classact")
    runs = read_runs([tmp_path])
    raw = compare_runs(runs).results[1]
    assert raw.updates_to_baseline is None
    calm = compare_runs(runs, smooth=3).results[1]
    assert calm.updates_to_baseline == 300
    assert calm.learner_speedup == pytest.approx(0.25)
    assert calm.final == 0.6


def test_an_outlier_at_the_very_end_does_not_set_a_smoothed_target():
    y = column(0.1, 0.2, 0.3, 0.4, 0.9)
    assert smoothed(y, 3).max() == 0.4
    assert smoothed(y, 3).tolist() == [0.2, 0.2, 0.3, 0.4, 0.4]
    assert smoothed(y, 1) is y
    assert smoothed(y, 99).tolist() == [0.3] * 5
    # An even window: medians of .15 .25 .35 .65, the first one kept to its left end.
    np.testing.assert_allclose(smoothed(y, 2), [0.15, 0.25, 0.35, 0.65, 0.65])
    assert smoothed(column(), 3).tolist() == []


def test_first_reach_by_hand():
    x, y = column(0, 10, 20, 30), column(0.0, 0.4, 0.3, 0.8)
    assert first_reach(x, y, 0.2) == 5
    assert first_reach(x, y, 0.4) == 10
    assert first_reach(x, y, 0.55) == pytest.approx(25)
    assert first_reach(x, y, 0.0) == 0
    assert first_reach(x, y, 0.81) is None
    assert first_reach(column(), column(), 0.1) is None


def test_a_loss_is_better_when_lower(tmp_path):
    write_run(tmp_path / "u", {100: 2.0, 200: 1.0, 300: 1.5}, metric="val/loss")
    write_run(tmp_path / "c", {100: 1.5, 200: 0.5}, metric="val/loss", recipe="c", steps=300)
    result = compare_runs(read_runs([tmp_path]), metric="val/loss").results[1]
    # 1.0 half way between 1.5 at 100 and 0.5 at 200.
    assert result.best == 0.5
    assert result.updates_to_baseline == pytest.approx(150)
    assert result.learner_speedup == pytest.approx(0.25)


def test_the_metric_at_equal_total_compute(tmp_path):
    # Full FLOPs: the baseline ends at 5000; the run is there at step 250 (20 a step), between
    # 0.5 and 0.7. The run ends at 10000, beyond the baseline's end.
    result = compare(tmp_path, {100: 0.3, 200: 0.5, 300: 0.7, 500: 0.8}, full=20)
    assert result.at_baseline_compute == pytest.approx(0.6)
    assert result.baseline_at_compute is None


def test_statistics_over_three_seeds_by_hand(tmp_path):
    # Final differences 0.02, 0.04, 0.06: mean 0.04, std 0.02, half the interval
    # 4.302653 x 0.02 / sqrt(3) = 0.049683 (Student's t, 2 degrees of freedom).
    for seed, gain in enumerate((0.02, 0.04, 0.06)):
        write_run(tmp_path / f"u{seed}", {100: 0.3, 200: 0.5}, seed=seed)
        # Reaches 0.5 at 100, 120 and 140: speed-ups 0.5, 0.4, 0.3.
        at = 100 + 20 * seed
        values = {50: 0.1, at: 0.5, 200: 0.5 + gain}
        write_run(tmp_path / f"c{seed}", values, recipe="classact", seed=seed)
    comparison = compare_runs(read_runs([tmp_path]))
    assert [(r.recipe, r.run.seed) for r in comparison.results] == [
        *(("uniform", seed) for seed in range(3)),
        *(("classact", seed) for seed in range(3)),
    ]
    summary = comparison.summaries[1]
    assert summary.seeds == (0, 1, 2)
    assert summary.reached == 3
    assert summary.spreads["learner_speedup"].mean == pytest.approx(0.4)
    assert summary.spreads["learner_speedup"].std == pytest.approx(0.1)
    assert summary.spreads["final"].mean == pytest.approx(0.54)
    assert summary.final_difference.mean == pytest.approx(0.04)
    assert summary.final_difference.std == pytest.approx(0.02)
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert summary.final_difference.low == pytest.approx(0.04 - half, abs=1e-8)
    assert summary.final_difference.high == pytest.approx(0.04 + half, abs=1e-8)


def test_one_baseline_run_makes_no_pairs_and_no_interval(tmp_path):
    # Final values 0.52, 0.54, 0.56 less 0.5, the same draw of chance in all three differences.
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    for seed, last in enumerate((0.52, 0.54, 0.56)):
        write_run(tmp_path / f"c{seed}", {100: 0.3, 200: last}, recipe="c", seed=seed)
    uniform, summary = compare_runs(read_runs([tmp_path])).summaries
    assert summary.final_difference.mean == pytest.approx(0.04)
    assert summary.final_difference.to_json() == {
        "mean": summary.final_difference.mean,
        "std": None,
        "low": None,
        "high": None,
    }
    assert (summary.compared, summary.pairs, summary.one_baseline) == (3, 1, True)
    assert (uniform.compared, uniform.pairs, uniform.one_baseline) == (1, 1, False)


def test_seeds_without_a_baseline_count_for_nothing_but_their_own_values(tmp_path):
    for seed in range(3):
        if seed < 2:
            write_run(tmp_path / f"u{seed}", {100: 0.3, 200: 0.5}, seed=seed)
        # Seeds 0 and 1 reach 0.5 at 100 and at 120 of 200.
        values = {50: 0.1, 100 + 20 * seed: 0.5, 200: 0.52 + 0.04 * seed}
        write_run(tmp_path / f"c{seed}", values, recipe="c", seed=seed)
    summary = compare_runs(read_runs([tmp_path])).summaries[1]
    assert summary.seeds == (0, 1, 2)
    assert (summary.reached, summary.compared, summary.pairs) == (2, 2, 2)
    assert summary.spreads["learner_speedup"].mean == pytest.approx(0.45)
    assert summary.spreads["updates_to_baseline"].mean == pytest.approx(110)
    assert summary.spreads["final"].mean == pytest.approx(0.56)
    # Differences 0.02 and 0.06: 12.706205 x 0.0282843 / sqrt(2) is half of the interval.
    assert summary.final_difference.high == pytest.approx(0.04 + 12.706205 * 0.02, abs=1e-7)


def test_each_run_is_held_against_the_baseline_of_its_seed(tmp_path):
    # Seed 0's baseline needs 200 updates for 0.5, seed 1's 400 for 0.7.
    write_run(tmp_path / "u0", {200: 0.5, 400: 0.4}, seed=0)
    write_run(tmp_path / "u1", {200: 0.3, 400: 0.7}, seed=1)
    for seed in (0, 1):
        write_run(tmp_path / f"c{seed}", {100: 0.5, 300: 0.7, 400: 0.7}, recipe="c", seed=seed)
    zero, one = compare_runs(read_runs([tmp_path])).results[2:]
    assert zero.learner_speedup == pytest.approx(0.5)
    assert one.learner_speedup == pytest.approx(0.25)


def test_one_seed_that_never_reaches_leaves_no_mean_speedup(tmp_path):
    for seed, last in enumerate((0.6, 0.4)):
        write_run(tmp_path / f"u{seed}", {100: 0.3, 200: 0.5}, seed=seed)
        write_run(tmp_path / f"c{seed}", {100: 0.3, 200: last}, recipe="c", seed=seed)
    summary = compare_runs(read_runs([tmp_path])).summaries[1]
    assert summary.reached == 1
    assert summary.spreads["learner_speedup"].mean is None
    assert summary.spreads["best"].mean == pytest.approx(0.5)


def test_json_has_the_keys_that_others_read(tmp_path):
    write_run(tmp_path / "u", BASELINE)
    write_run(tmp_path / "c", {100: 0.1, 500: 0.2}, recipe="classact")
    value = compare_runs(read_runs([tmp_path])).to_json()
    assert list(value) == ["metric", "baseline", "runs", "summary"]
    assert value["metric"] == "val/accuracy"
    assert value["baseline"] == "uniform"
    assert value["runs"][1] == {
        "recipe": "classact",
        "seed": 0,
        "best": 0.2,
        "final": 0.2,
        "updates_to_baseline": None,
        "learner_speedup": None,
        "compute_speedup_paper": None,
        "compute_speedup_full": None,
        "seconds_speedup": None,
    }
    assert value["runs"][0]["learner_speedup"] == 0
    assert value["summary"][1]["recipe"] == "classact"
    assert value["summary"][1]["best"] == {"mean": 0.2, "std": None}


def test_a_baseline_can_be_one_run_folder_and_serves_every_seed(tmp_path):
    base = write_run(tmp_path / "old", BASELINE, recipe="classact", seed=7)
    new = write_run(tmp_path / "new", {100: 0.4, 200: 0.6}, recipe="classact", seed=8)
    comparison = compare_runs(read_runs([base, new]), baseline=str(base))
    assert comparison.results[0].run.folder == base
    assert comparison.results[1].learner_speedup == pytest.approx(0.5)


def test_runs_of_one_recipe_and_seed_are_told_apart(tmp_path):
    for steps in (100, 200):
        write_run(tmp_path / f"u{steps}", {steps: 0.5}, recipe="uniform")
        write_run(tmp_path / f"c{steps}", {steps // 2: 0.5, steps: 0.6}, recipe="classact")
    write_run(tmp_path / "c200-hot-seed0", {200: 0.5}, recipe="classact")
    comparison = compare_runs(read_runs([tmp_path]))
    speedups = {result.recipe: result.learner_speedup for result in comparison.results}
    assert speedups == {
        "uniform (100 steps)": 0.0,
        "uniform (200 steps)": 0.0,
        "classact (100 steps)": 0.5,
        "c200": 0.5,
        "c200-hot": 0.0,
    }
    assert comparison.baseline == "uniform"


def test_a_missing_baseline_or_metric_is_refused_with_the_way_out(tmp_path):
    run = read_run(write_run(tmp_path / "c", BASELINE, recipe="classact"))
    with pytest.raises(RunError, match=r"baseline 'uniform' among the runs of classact"):
        compare_runs([run])
    with pytest.raises(RunError, match=r"no run logged 'val/top1'; they have val/accuracy"):
        compare_runs([run], metric="val/top1", baseline=None)
    with pytest.raises(RunError, match="no runs"):
        compare_runs([])
    with pytest.raises(RunError, match=r"smooth \(0\)"):
        compare_runs([run], baseline=None, smooth=0)
    alone = compare_runs([run], baseline=None)
    assert alone.baseline is None
    assert alone.results[0].best == 0.6
    assert alone.results[0].learner_speedup is None


def test_baselines_of_other_seeds_only_are_refused_with_both_lists(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"u{seed}", BASELINE, seed=seed)
    write_run(tmp_path / "c", BASELINE, recipe="c", seed=5)
    with pytest.raises(RunError, match=r"seeds \[0, 1\].*\[5\]"):
        compare_runs(read_runs([tmp_path]))


def test_runs_before_their_first_evaluation_have_no_numbers(tmp_path):
    write_run(tmp_path / "u", {}, steps=500, finished=False)
    write_run(tmp_path / "c", BASELINE, recipe="c")
    baseline, other = compare_runs(read_runs([tmp_path])).results
    assert baseline.best is None
    assert other.best == 0.6
    assert other.learner_speedup is None


RECALL = "val/mean_recall"


def test_runs_on_pairs_are_compared_by_their_mean_recall(tmp_path):
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5}, recipe="clip", metric=RECALL)
    write_run(tmp_path / "c", {100: 0.5, 200: 0.6}, recipe="active_clip", metric=RECALL)
    runs = read_runs([tmp_path])
    comparison = compare_runs(runs, baseline="clip")
    assert comparison.metric == RECALL
    assert comparison.results[1].learner_speedup == pytest.approx(0.5)
    with pytest.raises(RunError, match=r"no run logged 'val/accuracy'; they have val/mean_recall"):
        compare_runs(runs, metric="val/accuracy", baseline="clip")


def test_the_metric_is_accuracy_where_it_was_logged_and_that_of_the_task_before(tmp_path):
    accuracy = read_run(write_run(tmp_path / "a", {10: 0.5}))
    recall = read_run(write_run(tmp_path / "b", {10: 0.5}, metric=RECALL))
    begun = read_run(write_run(tmp_path / "c", {}, steps=10, finished=False))
    pairs = replace(begun, config={**begun.config, "task": "image_text"})
    assert default_metric([recall, accuracy]) == "val/accuracy"
    assert default_metric([begun, recall]) == RECALL
    assert default_metric([begun]) == "val/accuracy"
    assert default_metric([pairs]) == RECALL
