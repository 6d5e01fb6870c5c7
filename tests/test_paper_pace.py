"""What runs should have taken, at the pace that their models had beside them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from superbatch.errors import Stopped
from superbatch.recipes import recipe
from superbatch.surroundings import Surroundings


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODELS = {"learner": "S/4", "online": "mu-2400/4", "reference": "Ti/4"}
FLAGS = {
    "data.path": "digits",
    "select.super-batch-size": "8",
    "select.sub-batch-size": "4",
    "models.learner": "mu-1000/4",
    "models.online": "mu-2400/4",
    "models.reference": "mu-2400/4",
    "reference-training.steps": "2",
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def timed(monkeypatch):
    """Every model that is timed, in turn; the n-th takes n seconds a FLOP, updates ten times."""
    from paper import rates

    asked = []

    def pace(name, side, learned):
        asked.append((name, side, learned))
        return len(asked), 10 * len(asked)

    monkeypatch.setattr(rates, "pace", pace)
    return asked


def test_each_model_is_at_its_pace_and_a_reference_trained_beforehand_at_that_of_then():
    from paper.rates import predicted_seconds

    spent = {
        "learner": {"score": 0, "learn": 100, "pretrain": 0, "evaluate": 10},
        "online": {"score": 0, "learn": 0, "pretrain": 0, "evaluate": 0},
        "reference": {"score": 20, "learn": 0, "pretrain": 60, "evaluate": 9, "recompute": 4},
    }
    config = recipe("classact").changed(models=MODELS)
    beside, before = {"S/4": (2, 3), "Ti/4": (5, 7)}, {"Ti/4": (11, 13)}
    # 10 * 2 + 100 * 3 of the learner; (20 + 4) * 5 of the reference, and 60 * 13 + 9 * 11 before
    assert predicted_seconds(spent, config, beside, before) == 20 + 300 + 120 + 780 + 99
    assert predicted_seconds(spent, config, beside, {}) is None
    assert predicted_seconds(spent, config, {"S/4": (2, 3)}, before) is None


def test_models_are_timed_before_and_after_a_run_and_its_references_training(tmp_path, timed):
    from paper.arm import Arm, Places
    from paper.store import Store

    store = Store(Places(tmp_path, tmp_path))
    arm = Arm("chosen", "classact", FLAGS, 2, paced=8)
    store.train(arm, 0, Surroundings())
    small, large = ("mu-2400/4", 8, 4), ("mu-1000/4", 8, 4)
    # the online model is as the reference and timed once
    assert timed == [small, small, large, small, large, small]
    beside, before = store.paces(arm, 0)
    assert before == {"mu-2400/4": [1.5, 15]}
    assert beside == {"mu-1000/4": [4, 40], "mu-2400/4": [5, 50]}


def test_a_run_that_is_broken_off_is_timed_when_it_begins_again(tmp_path, timed):
    from paper.arm import Arm, Places
    from paper.store import Store

    store = Store(Places(tmp_path, tmp_path))
    flags = {key: FLAGS[key] for key in ("data.path", "models.learner", "device")}
    arm = Arm("uniform", "uniform", flags | {"select.sub-batch-size": "4"}, 4, paced=8)
    with pytest.raises(Stopped):
        store.train(arm, 0, Surroundings(stop=lambda: True))
    assert len(timed) == 1
    store.train(arm, 0, Surroundings())
    assert store.paces(arm, 0) == ({"mu-1000/4": [2, 20]}, {})
    lines = (tmp_path / "sessions" / f"{arm.key(0)}.jsonl").read_text().splitlines()
    assert ["paces" in json.loads(line) for line in lines] == [True, False, True, True]
    assert store.processor_seconds(arm, 0) > 0


def test_a_run_beside_which_nothing_was_timed_is_not_judged():
    from paper.results import at_own_pace

    config = recipe("uniform").changed(models=MODELS)
    spent = {"flops": {"by_role": {"learner": {"learn": 100, "evaluate": 10}}}}

    def seconds(paces):
        store = SimpleNamespace(config_of=lambda *of: config, paces=lambda *of: (paces, {}))
        return at_own_pace(store, None, 0, spent)

    assert seconds({"S/4": (2, 3)}) == 320
    assert seconds({}) is None


def test_only_the_presets_of_two_cores_time_their_models():
    from paper.arms import Bench
    from paper.data import DATA
    from paper.settings import PRESETS

    timed = {
        name: Bench(preset, DATA["cifar10n-worse"]).uniform().paced
        for name, preset in PRESETS.items()
    }
    assert {name for name, side in timed.items() if side} == {"cpu", "goal", "goal-wide"}
    assert timed["cpu"] == 32
    assert Bench(PRESETS["cpu"], DATA["flickr8k-moved"]).pair("clip", "clip").paced == 48


def test_models_of_pairs_are_timed_on_pairs_of_the_runs_data(tmp_path, monkeypatch):
    from paper import rates
    from paper.arm import Places
    from paper.arms import Bench
    from paper.data import DATA, ready
    from paper.settings import PRESETS
    from paper.store import Store

    done = []
    monkeypatch.setattr(rates, "seconds_of", lambda work: done.append(work()) or 6.0)
    data, store = DATA["pairs-moved"], Store(Places(tmp_path, tmp_path))
    ready(data, tmp_path, tmp_path)
    bench = Bench(replace(PRESETS["check"], paced=True), data)
    arm = bench.pair("chosen", "active_clip", data.clean)
    store.train(arm, 0, Surroundings())

    # 16 pairs are scored and 8 learned; an update is three forward passes
    beside, before = store.paces(arm, 0)
    spent = store.summary(arm, 0)
    by_role, seen = spent["flops"]["by_role"], spent["examples_seen"]
    learner = by_role["learner"]["learn"] / 3 / spent["examples_learned"]
    actor = by_role["online"]["score"] / seen
    expected = {
        name: pytest.approx([6 / (16 * flops), 6 / (3 * 8 * flops)])
        for name, flops in {"mu-1000/4+mu-2400": learner, "mu-2400/4": actor}.items()
    }
    assert beside == expected
    assert before == {"mu-2400/4": expected["mu-2400/4"]}
    assert {len(losses) for losses in done if losses.ndim} == {16}
