import io

from made_runs import write_run
from rich.console import Console

from superbatch.report.read import read_runs
from superbatch.report.speedup import compare_runs
from superbatch.report.table import comparison_table


def printed(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_table(compare_runs(read_runs([tmp_path]))))
    return console.file.getvalue()


def test_the_table_prints_shares_in_percent_and_says_not_reached(tmp_path):
    write_run(tmp_path / "u", {100: 0.3, 200: 0.5})
    write_run(tmp_path / "good", {100: 0.5, 200: 0.6}, recipe="good", full=25)
    write_run(tmp_path / "bad", {100: 0.1, 200: 0.2}, recipe="bad")
    text = printed(tmp_path)
    good = next(line for line in text.splitlines() if "good" in line)
    assert "+50.0 %" in good
    assert "-25.0 %" in good
    assert "+0.1000" in good
    bad = next(line for line in text.splitlines() if "bad" in line)
    assert "not reached" in bad


def test_a_recipe_cannot_style_the_terminal(tmp_path):
    write_run(tmp_path / "u", {100: 0.3})
    write_run(tmp_path / "c", {100: 0.3}, recipe="[red]sly[/red]")
    assert "[red]sly[/red]" in printed(tmp_path)
