import io
import re

from made_runs import write_run
from rich.console import Console

from superbatch.report.read import read_runs
from superbatch.report.speedup import compare_runs
from superbatch.report.table import comparison_table


def printed(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(compare_runs(read_runs([tmp_path]))))
    lines = console.file.getvalue().splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return {row[0]: row[1:] for row in cells if row}


def test_the_table_prints_shares_in_percent_and_says_not_reached(tmp_path):
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    write_run(tmp_path / "good", {100: 0.5, 200: 0.6}, recipe="good", full=25)
    write_run(tmp_path / "bad", {100: 0.1, 200: 0.2}, recipe="bad")
    table = printed(tmp_path)
    assert table["recipe"] == ["uniform", "bad", "good"]
    assert table["final"] == ["0.5000", "0.2000", "0.6000"]
    assert table["difference ± 95 %"] == ["-", "-0.3000", "+0.1000"]
    assert table["updates to baseline's best"] == ["200", "not reached", "100"]
    assert table["saved: updates"] == ["-", "-", "+50.0 %"]
    assert table["saved: FLOPs, full"] == ["-", "-", "-25.0 %"]


def test_the_table_shows_the_spread_over_seeds(tmp_path):
    for seed, best in enumerate((0.5, 0.7)):
        write_run(tmp_path / f"u{seed}", {100: best}, seed=seed)
        write_run(tmp_path / f"c{seed}", {100: 0.6}, recipe="c", seed=seed)
    table = printed(tmp_path)
    # Deviation of 0.5 and 0.7 with n - 1: 0.2 / sqrt(2).
    assert table["best"] == ["0.6000 ± 0.1414", "0.6000 ± 0.0000"]
    # Differences +0.1 and -0.1: 12.706 x 0.1414 / sqrt(2).
    assert table["difference ± 95 %"] == ["-", "+0.0000 ± 1.2706"]
    assert table["updates to baseline's best"] == ["100 ± 0", "1 of 2 reached"]


def test_the_table_counts_those_that_have_a_baseline(tmp_path):
    for seed, last in enumerate((0.5, 0.7, 0.9)):
        if seed < 2:
            write_run(tmp_path / f"u{seed}", {100: last}, seed=seed)
        write_run(tmp_path / f"c{seed}", {100: 0.6}, recipe="c", seed=seed)
    table = printed(tmp_path)
    assert table["seeds"] == ["2", "3"]
    assert table["updates to baseline's best"] == ["100 ± 0", "1 of 2 reached"]


def test_a_recipe_cannot_style_the_terminal(tmp_path):
    write_run(tmp_path / "u", {100: 0.3})
    write_run(tmp_path / "c", {100: 0.3}, recipe="[red]sly[/red]")
    assert printed(tmp_path)["recipe"] == ["uniform", "[red]sly[/red]"]
