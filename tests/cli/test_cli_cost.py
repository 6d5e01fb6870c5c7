import json
import subprocess
import sys

import pytest

from superbatch.cli.cost import run
from superbatch.cli.cost_price import model_flops, parse_flops, text_flops
from superbatch.errors import ConfigError


PAPER = ["--learner", "L/16", "--actor", "Ti/16", "--rho", "2", "--beta", "0.74"]


def answer(capsys, *argv: str) -> dict:
    assert run([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_keys_that_scripts_rely_on(capsys):
    told = answer(capsys, *PAPER)
    assert {"terms", "paper", "full", "verdict"} <= set(told)
    for accounting in ("paper", "full"):
        assert {"relative_cost", "saving", "break_even_beta"} <= set(told[accounting])
    # paper-facts 3.2: 22.0 and 20.4 %, break-even 0.954 and 0.935
    assert told["paper"]["saving"] == pytest.approx(0.220, abs=0.0006)
    assert told["full"]["saving"] == pytest.approx(0.204, abs=0.0006)
    assert round(told["paper"]["break_even_beta"], 3) == 0.954
    assert round(told["full"]["break_even_beta"], 3) == 0.935
    assert told["verdict"] == "compute-positive"
    assert told["scoring_devices"] == pytest.approx(0.027, abs=0.0005)


def test_table_1_from_the_command_line(capsys):
    online = ("--learner", "B/16", "--actor", "Ti/16", "--beta", "0.83")
    online = (*online, "--reference-training", "online")
    rho = ("--learner", "B/16", "--reference", "Ti/16", "--beta", "1", "--scorer", "learner")
    assert round(100 * answer(capsys, *rho)["paper"]["saving"]) == -79
    assert round(100 * answer(capsys, *online)["paper"]["saving"]) == 2
    assert round(100 * answer(capsys, *online)["full"]["saving"]) == -56


def test_a_beta_above_the_break_even_does_not_pay(capsys):
    assert answer(capsys, *PAPER[:-1], "0.93")["verdict"] == "compute-positive"
    assert answer(capsys, *PAPER[:-1], "0.94")["verdict"] == "compute-negative"


def test_a_speed_up_is_one_less_beta(capsys):
    by_beta = answer(capsys, *PAPER)
    by_speedup = answer(capsys, *PAPER[:-2], "--speedup", "0.26")
    assert by_speedup["full"] == pytest.approx(by_beta["full"])


def test_flops_in_place_of_names(capsys):
    told = answer(capsys, "--learner", "6G", "--actor", "600M", "--rho", "3", "--beta", "0.5")
    assert told["full"]["relative_cost"] == pytest.approx(0.75)  # by hand in test_cost.py


def test_both_towers_count(capsys):
    # B/16 at 128 px: 5.64 GMACs and CLIP-B's text tower 2.98
    told = answer(
        capsys,
        *("--learner", "B/16", "--actor", "Ti/16", "--beta", "0.5", "--image-size", "128"),
        *("--learner-text", "512:12:77", "--actor-text", "128:6:64"),
    )
    assert told["flops"]["learner"]["forward"] / 2e9 == pytest.approx(5.64 + 2.98, abs=0.02)
    assert told["flops"]["online"]["forward"] / 2e9 == pytest.approx(0.374 + 0.082, abs=0.002)


def test_actor_sizes_are_those_below_the_learner(capsys):
    sizes = answer(capsys, "--learner", "S/4", "--actor", "mu-300/4", "--beta", "0.7")["actors"]
    assert [row["actor"] for row in sizes[:2]] == ["Ti/4", "mu-100/4"]
    savings = [row["full"]["saving"] for row in sizes]
    assert savings == sorted(savings)  # ever smaller actors, ever larger savings
    assert [row["full"]["saving"] for row in sizes if row["actor"] == "mu-300/4"] == [
        answer(capsys, "--learner", "S/4", "--actor", "mu-300/4", "--beta", "0.7")["full"]["saving"]
    ]


def test_the_papers_own_speed_ups_stand_beside_ours(capsys):
    rows = {row["actor"]: row for row in answer(capsys, *PAPER)["actors"]}
    assert rows["B/16"]["reported_speedup"] == 0.31
    assert rows["B/16"]["reported_saving"]["full"] == pytest.approx(-0.435, abs=0.001)
    assert "reported_speedup" not in rows["mu-1000/16"]
    others = answer(capsys, *PAPER, "--scorer", "learner")["actors"]
    assert not any("reported_speedup" in row for row in others)


def test_the_table_says_every_term_and_the_verdict(capsys):
    assert run([*PAPER, "--scoring-devices"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "learner's updates",
        "scoring by the online model",
        "scoring by the reference",
        "online model's updates",
        "reference's training",
        "Compute-positive: at beta = 0.74 training costs 20.4% less than uniform",
        "22.0% less in the paper's accounting",
        "one such device keeps 36.8 busy",
        "mu-2400/16",
        "█",
    ):
        assert words in out
    assert "forward passes used twice" not in out  # a term of zero


def test_an_answer_where_nothing_pays(capsys):
    assert run(["--learner", "Ti/16", "--actor", "S/16", "--beta", "0.5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Compute-negative" in out
    assert "No beta pays" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--rho", "0.5"], "rho"),
        (["--beta", "-1"], "beta"),
        (["--beta", "nan"], "beta"),
        (["--actor", "0"], "0 FLOPs"),
        (["--learner", "XL/16"], "no model is called 'XL/16' .*L/16"),
        (["--learner", "L/15"], "15 pixels does not divide an image of 224"),
        (["--speedup", "0.2"], "either --beta .* or --speedup"),
        (["--classes", "-1"], "classes"),
        (["--image-size", "0"], "image size"),
        (["--learner-text", "512"], None),
        (["--learner-text", "512:12"], "WIDTH:DEPTH:TOKENS"),
        (["--online", "S/16", "--scorer", "learner"], "--online S/16 does not go with"),
        (["--amortised-over", "3"], "amortised"),
        (["--plot", "saving.txt"], "suffix"),
        (["--plot", "no/such/folder/saving.svg"], "cannot be written"),
        (["--learner", "60G", "--measure"], "--measure needs models"),
        (["--learner-text", "6G", "--measure"], "--measure times image towers"),
    ],
)
def test_bad_input_is_one_message(changes, message):
    if message is None:  # a bare number is FLOPs
        assert run([*PAPER, *changes]) == 0
        return
    with pytest.raises(ConfigError, match=message):
        run([*PAPER, *changes])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learner", "L/16", "--beta", "0.7"], "which models score"),
        (["--learner", "L/16", "--actor", "Ti/16"], "either --beta"),
        (["--learner", "L/16", "--actor", "Ti/16", "--speedup", "1"], "must be below 1"),
    ],
)
def test_what_is_missing_is_named(argv, message):
    with pytest.raises(ConfigError, match=message):
        run(argv)


@pytest.mark.parametrize(
    "argv", [["--beta", "0.7"], [*PAPER, "--aktor", "Ti/16"], [*PAPER, "--rho", "two"]]
)
def test_bad_flags_end_with_two(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        run(argv)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_plot_is_a_figure(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run([*PAPER, "--plot", str(tmp_path / "saving.svg")])
    text = (tmp_path / "saving.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    assert len(text) > 10_000


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"superbatch\[figures\]"):
        run([*PAPER, "--plot", str(tmp_path / "saving.svg")])


def test_measuring_gives_the_same_terms_in_seconds(monkeypatch, capsys):
    monkeypatch.setattr("superbatch.cli.cost_price._MEASURE_SECONDS", 0.01)
    small = ("--learner", "mu-300/4", "--actor", "mu-2400/4", "--image-size", "16")
    told = answer(capsys, *small, "--beta", "0.5", "--measure")["measured"]
    seconds = told["seconds"]
    assert all(0 < price["forward"] < price["update"] for price in seconds.values())
    scored = 2 * seconds["online"]["forward"] / seconds["learner"]["update"]
    assert told["terms"]["scoring_online"]["full"] == pytest.approx(0.5 * scored)


def test_a_name_of_timm_is_priced_by_torch():
    # 1.8 GMACs at 224 px are a textbook figure for it
    assert model_flops("resnet18", image_size=224, classes=1000) / 2e9 == pytest.approx(
        1.81, abs=0.02
    )


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1e9", 1e9),
        ("61.6G", 61.6e9),
        ("1.2T", 1.2e12),
        ("600M", 6e8),
        ("L/16", None),
        ("nan", None),
    ],
)
def test_numbers_are_flops(text, flops):
    assert parse_flops(text) == flops


def test_a_text_tower_by_hand():
    # 2 wide, 1 deep, 3 tokens: 8*3*4 + 4*9*2 + 4*3*2*8
    assert text_flops("2:1:3") == 96 + 72 + 192
    assert text_flops(None) == 0


def test_the_answer_needs_no_torch():
    code = f"import sys; from superbatch.cli.cost import run; run({PAPER!r}); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'matplotlib')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
