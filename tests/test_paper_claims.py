import fcntl
import json
import re
from pathlib import Path

import pytest

from superbatch.cli import main as superbatch


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(BENCHMARKS))
        yield


def paper(*words):
    from paper.command import main

    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def root(importable, tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def checked(root):
    """What --check published of a claim, run when it is first asked for; all share their runs."""

    def numbers(claim):
        if not (root / "out" / f"paper-{claim.lower()}-check.svg").exists():
            assert paper(claim, "--check", "--runs", root / "runs", "--out", root / "out") == 0
        return published(root / "out", claim)

    return numbers


def published(out, claim):
    return json.loads((out / f"paper-{claim.lower()}-check.json").read_text())


def arms(found, study=0):
    return {arm["name"]: arm for arm in found["studies"][study]["arms"]}


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(one) for key, one in value.items() if key != "seconds"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


CLAIMS = ("GOAL", "C1", "C2", "C3", "C4", "C5", "C6", "C7")


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_is_whole(checked, claim):
    found = checked(claim)
    assert found["paper"]["says"]
    for study in found["studies"]:
        assert not study["unfinished"]
        assert len(study["arms"]) > 1
        for arm in study["arms"]:
            assert len(arm["by_seed"]) == len(arm["seeds"]) == len(arm["runs"]) == 2
            assert arm["flops"]["full"] >= arm["flops"]["paper"] > 0
            assert arm["seconds"]["measured"]["mean"] > 0
            assert arm["seconds"]["over_predicted"] > 0
            assert arm["seconds"]["processor"] > 0
            assert arm["seconds"]["processor_over_rates"] is None  # too short to be timed beside
            assert arm["curve"]["step"][-1] == arm["steps"]
            mean = sum(one["final"] for one in arm["by_seed"]) / 2
            assert arm["curve"]["mean"][-1] == pytest.approx(mean, abs=1e-5)
            assert arm["final"]["mean"] == pytest.approx(mean)
            if arm["name"] == arm["baseline"]:
                assert arm["difference"]["mean"] == 0
                assert arm["relative_flops"] == {"paper": 1, "full": 1}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_published_names_no_place_of_this_machine(checked, root, claim):
    checked(claim)
    files = list((root / "out").glob(f"paper-{claim.lower()}-check.*"))
    assert len(files) == 2
    assert not any(str(root) in path.read_text() for path in files)


def test_figures_name_their_arms(checked, root):
    for claim in ("C1", "C5"):
        studies = checked(claim)["studies"]
        drawn = (root / "out" / f"paper-{claim.lower()}-check.svg").read_text()
        for study in studies:
            for arm in study["arms"]:
                assert f">{arm['name']}<" in drawn


def test_an_arm_is_held_against_uniform_with_no_fewer_flops(checked):
    for name, arm in arms(checked("C1")).items():
        equal = arm["equal_compute"]
        if name == "uniform":
            assert equal is None
        else:
            assert equal["flops"]["full"] >= arm["flops"]["full"] * 0.999
            # every update of uniform costs the same, and updates are rounded up to 12
            assert equal["steps"] % 12 == 0
            spare = equal["flops"]["full"] - arm["flops"]["full"]
            assert spare < equal["flops"]["full"] * 12 / equal["steps"] + 1


def test_claims_share_the_uniform_runs(checked):
    keys = {tuple(arms(checked(claim))["uniform"]["runs"]) for claim in ("C1", "C2", "C5", "C6")}
    assert len(keys) == 1


def test_a_table_and_a_replayed_order_are_the_live_run_for_less(checked):
    found = arms(checked("C6"))
    live = [one["final"] for one in found["live"]["by_seed"]]
    for name in ("table", "its order", "its order, from a small learner"):
        assert [one["final"] for one in found[name]["by_seed"]] == live
        assert found[name]["curve"]["mean"] == found["live"]["curve"]["mean"]
    assert found["order of another seed"]["curve"]["mean"] != found["live"]["curve"]["mean"]
    assert found["its order"]["flops"] == found["uniform"]["flops"]
    assert found["its order"]["paid_once"] == found["live"]["flops"]["full"]
    saved = found["live"]["flops"]["full"] - found["table"]["flops"]["full"]
    assert saved == sum(found["live"]["flops_by_role"]["reference"].values())
    reference = found["live"]["flops_by_role"]["reference"]
    a_row = reference["score"] / (12 * 32)  # live, 12 super-batches of 32 were scored
    assert found["table"]["paid_once"] == reference["pretrain"] + 300 * a_row
    assert found["live"]["seconds"]["paid_once"] == 0


def test_the_table_says_which_arms_took_longer_than_their_flops(checked):
    from paper.publish import table

    found = checked("C3")
    ours = {"RHO": 1.16, "ClassAct": 1.14}
    for arm in found["studies"][0]["arms"]:
        arm["seconds"]["processor_over_predicted"] = ours.get(arm["name"])
        arm["seconds"]["processor_over_rates"] = {"RHO": 1.149, "uniform": 1.0}.get(arm["name"])
    said = [line for line in table(found).splitlines() if line.startswith("Over 1.15")]
    assert said == [
        "Over 1.15 times the seconds of its FLOPs at uniform's pace: RHO (1.16).",
        "Over 1.15 times the seconds of its FLOPs, each model's at its own pace: none of 2.",
    ]


def test_a_smaller_actor_costs_less(checked):
    found = arms(checked("C2"))
    for criterion in ("learnability", "easy_reference"):
        large, small = (
            found[f"{criterion}, {size}"]["relative_flops"] for size in ("mu-1000/4", "mu-2400/4")
        )
        assert 1 < small["full"] < large["full"]


def test_the_reference_learns_what_the_arm_says(checked, root):
    runs = root / "runs" / "runs"

    def learned(arm):
        config = json.loads((runs / arm["runs"][0] / "config.json").read_text())
        return config["reference_data"] and Path(config["reference_data"]).name

    found, pairs = (arms(checked("C5"), study) for study in (0, 1))
    assert learned(found["reference of the pool"]) is None
    assert learned(found["reference of the clean part"]) == "clean.parquet"
    assert learned(pairs["reference of the pool"]) is None
    assert learned(pairs["reference of the curated part"]) == "clean.tar"
    assert learned(pairs["reference of others"]) == "others.tar"
    # 100 clean digits beside 300 of which 40 % are wrong: the pool's own share is 0.6
    mixed = found["uniform, clean part too"]["clean_share"]["pool"]["mean"]
    assert mixed > found["uniform"]["clean_share"]["pool"]["mean"]


def test_the_printed_command_repeats_the_run(checked, root, tmp_path):
    arm = arms(checked("C1"))["learnability"]
    words = arm["command"].replace("$RUNS", str(root / "runs")).split()
    assert words[:2] == ["superbatch", "train"]
    assert superbatch([*words[1:], f"--out={tmp_path / 'by-hand'}"]) == 0
    summary = json.loads((tmp_path / "by-hand" / "summary.json").read_text())
    assert summary["val"]["accuracy"] == arm["by_seed"][0]["final"]
    assert summary["flops"]["full"] == arm["flops"]["full"]


def test_a_finished_run_is_not_run_again(checked, root):
    checked("C1")
    files = sorted((root / "runs" / "runs").glob("*/summary.json"))
    before = [path.stat().st_mtime_ns for path in files]
    assert paper("C1", "--preset=check", "--runs", root / "runs") == 0
    assert sorted((root / "runs" / "runs").glob("*/summary.json")) == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_stopped_and_gone_on_with_it_publishes_the_same(checked, root, tmp_path):
    checked("C1")
    words = ("C1", "--preset=check", "--only", "learnability", "--runs")
    stopped = 0
    while paper(*words, tmp_path / "runs", "--minutes", 0.0001) == 1:
        stopped += 1
        if stopped == 4:
            assert paper(*words, tmp_path / "runs") == 0
            break
    assert stopped == 4
    for runs, out in ((root / "runs", "whole"), (tmp_path / "runs", "stopped")):
        assert paper(*words, runs, "--publish", "--out", tmp_path / out) == 0
    whole, other = (published(tmp_path / name, "C1") for name in ("whole", "stopped"))
    assert list(arms(whole)) == ["uniform", "learnability"]
    assert without_seconds(other) == without_seconds(whole)


def test_a_run_that_another_process_has_is_left_to_it(tmp_path):
    from paper.arm import Places
    from paper.arms import Bench
    from paper.data import DATA
    from paper.settings import PRESETS
    from paper.store import BusyError, Store

    from superbatch.surroundings import Surroundings

    arm = Bench(PRESETS["check"], DATA["digits-noisy"]).uniform()
    store = Store(Places(tmp_path, tmp_path))
    (tmp_path / "locks").mkdir()
    with (tmp_path / "locks" / arm.key(0)).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            store.train(arm, 0, Surroundings())
    assert not store.folder(arm, 0).exists()


def test_parts_are_disjoint_and_together_all(capsys, tmp_path):
    words = ("C1", "C3", "--preset=check", "--plan", "--runs", tmp_path)

    def planned(*more):
        assert paper(*words, *more) == 0
        return capsys.readouterr().out.splitlines()

    parts = [planned("--part", f"{place}/3") for place in (1, 2, 3)]
    assert sorted(line for part in parts for line in part) == sorted(planned())
    assert all(re.match(r"superbatch train \w+ --", line) for line in planned())


def test_what_cannot_be_run_is_refused_in_a_sentence(capsys, tmp_path):
    for words, said in (
        (("C1", "--preset=paper"), "--data-path"),
        (("C9",), "C1, C2"),
        (("C1", "--part", "4/3"), "like 1/3"),
        (("C1", "--data", "cifar"), "cifar10n-worse"),
        (("C1", "--only", "learnabilty"), "learnability"),
    ):
        assert paper(*words, "--runs", tmp_path) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
