"""When scores choose, with which settings, and when they stop for good."""

import logging
import math

import pytest
import torch
from selector_parts import by_columns, made_up

from superbatch.errors import ConfigError
from superbatch.selector import AutoOff, Ramp, Schedule
from superbatch.selector.auto_off import Watch
from superbatch.selector.schedule import Plan
from superbatch.selector.stopwatch import Stopwatch


BATCH = made_up([float(n) for n in range(8)], [0.0] * 8)


def run(chooser, steps=6, batch=BATCH):
    """For each step: s(cored), u(niform) or a(ll)."""
    found = ""
    for _ in range(steps):
        picked = chooser.pick(batch)
        chooser.learn(picked)
        scored = picked.scores is not None
        found += "s" if scored else "a" if picked.batch is batch else "u"
        assert not scored or chooser.kept_of(8) in (4, 8)
    return found


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule(), "ssssss"),
        (Schedule(start=2), "uussss"),
        (Schedule(start=2, before="all"), "aassss"),
        (Schedule(end=4), "ssssuu"),
        (Schedule(1, 3, "all", "all"), "assaaa"),
        (Schedule(start=0.5, steps=6), "uuusss"),
        (Schedule(start=1, end=1.0, steps=4), "usssuu"),
    ],
)
def test_scores_choose_from_start_to_end(schedule, wanted):
    assert run(by_columns(schedule=schedule)) == wanted


def test_a_sub_batch_has_the_same_size_whoever_chooses():
    chooser = by_columns(schedule=Schedule(start=2, end=4))
    assert [len(chooser.select(BATCH)["online"]) for _ in range(6)] == [4] * 6
    assert chooser.kept == 24


def test_the_online_model_learns_until_scores_never_choose_again():
    chooser = by_columns(schedule=Schedule(start=2, end=4))
    learned = [chooser.learn(chooser.pick(BATCH)) is not None for _ in range(6)]
    # what is learned at the last scored step would score nothing
    assert learned == [True, True, True, False, False, False]


def test_a_ramp_by_hand():
    ramp = Ramp(10, 1, begin=2, end=5)
    assert [ramp.at(step, None) for step in range(7)] == [10, 10, 10, 7, 4, 1, 1]
    assert Ramp(0.0, 0.8).at(5, 10) == pytest.approx(0.4)
    assert Ramp(3.0, 1.0, end=0).at(0, None) == 1.0


def test_ratio_and_temperature_may_change():
    chooser = by_columns(
        filter_ratio=Ramp(0.0, 0.75, end=3), temperature=Ramp(2.0, 0.0, begin=0, end=4)
    )
    sizes, temperatures = [], []
    for _ in range(5):
        picked = chooser.pick(BATCH)
        sizes.append(len(picked.index))
        temperatures.append(chooser.metrics["temperature"])
    assert sizes == [8, 6, 4, 2, 2]
    assert temperatures == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert picked.index.tolist() == [6, 7]


@pytest.mark.parametrize(
    ("settings", "scored", "weighed"),
    [
        ({"schedule": Schedule(1, 2, "uniform", "all")}, "usa", [False, True, False]),
        ({"schedule": Schedule(1, before="all")}, "ass", [False, True, True]),
        ({"filter_ratio": Ramp(0.0, 0.5, end=1)}, "ass", [False, True, True]),
        ({"importance_exponent": Ramp(0.0, 1.0, end=2)}, "sss", [False, True, True]),
        ({"auto_off": AutoOff(2, slow=False, deviations=1e3)}, "ssu", [True, True, False]),
    ],
)
def test_every_pick_has_weights_where_an_exponent_asks_for_them(settings, scored, weighed):
    given = {"temperature": 1.0, "importance_exponent": 1.0} | settings
    assert run(by_columns(**given), 3) == scored
    chooser, others = by_columns(**given), []
    for _ in range(3):
        weights = chooser.pick(BATCH).weights
        others.append(not torch.equal(weights, torch.ones(len(weights))))
    # All rows, and uniform ones, stand for the super-batch as they are: 1 each.
    assert others == weighed


def test_no_exponent_no_weights():
    assert by_columns(schedule=Schedule(1), importance_exponent=0).pick(BATCH).weights is None
    never = by_columns(importance_exponent=Ramp(0.0, 0.0, end=1))
    assert len(never.select(BATCH)["online"]) == 4


def test_times_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"a fraction from 0\.0 to 1\.0; it is 1\.5"):
        Plan(0.5, 1.0, 0.0, Schedule(start=1.5, steps=3)).at(0)
    with pytest.raises(ConfigError, match="temperature must be 0"):
        Plan(0.5, Ramp(1.0, -1.0), 0.0, Schedule())
    with pytest.raises(ConfigError, match="looks at 2 choices or more; its window is 1"):
        AutoOff(window=1)


def test_flat_scores_switch_off_and_say_so_once(caplog):
    flat = made_up([1.0] * 8, [1.0] * 8)
    chooser = by_columns(temperature=1.0, auto_off=AutoOff(window=3, slow=False))
    with caplog.at_level(logging.WARNING, logger="superbatch.selector"):
        assert run(chooser, 8, flat) == "sssuuuuu"
    assert len(caplog.records) == 1
    assert "over 3 choices the kept rows scored 0.0000 standard deviations" in caplog.text
    assert chooser.off in caplog.text
    assert chooser.metrics["off"] == 1
    assert chooser.learn(flat) is None


def test_scores_that_choose_stay_on():
    chooser = by_columns(auto_off=AutoOff(window=3, slow=False))
    assert run(chooser, 9) == "s" * 9
    assert chooser.off is None


def test_random_draws_look_flat_and_slightly_better_ones_do_not():
    # 4 of 8: the gain of a uniform draw has variance 4 / (4 * 7); of 100 their mean has 0.0378^2
    assert math.sqrt(4 / (4 * 7) / 100) == pytest.approx(0.0378, abs=1e-4)
    for gain, off in ((0.10, True), (0.12, False)):  # 2.6 and 3.2 deviations
        watch = Watch(AutoOff(window=100, slow=False))
        scores = torch.tensor(
            [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
        )  # half a unit is a deviation
        best, fair = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1, 2, 3])
        for number in range(100):
            watch.note(scores, best if number < 100 * gain else fair)
        watch.look(lambda what: 0.0)
        assert (watch.off is not None) == off


@pytest.mark.parametrize(("step_seconds", "off"), [(3.9, True), (4.1, False)])
def test_scoring_that_cannot_pay_switches_off(step_seconds, off):
    watch = Watch(AutoOff(window=2, flat=False))
    scores = torch.arange(4.0)
    for _ in range(2):
        watch.note(scores, torch.tensor([2, 3]))  # rho = 2
    seconds = {"score": 1.5, "learn": 0.5, "turn": step_seconds}
    watch.look(seconds.__getitem__)
    # rho = 2: choosing (2 s) may take as long as the rest of the step, 1.9 s or 2.1 s
    assert (watch.off is not None) == off
    assert watch.reason == ("slow" if off else None)
    if off:
        assert "take 2 s a step and the rest of it 1.9 s" in watch.off


def test_an_interrupted_window_is_not_judged_by_the_clock():
    """A stopwatch starts anew: right after an interruption it has seen no whole turn."""
    rule, scores, chosen = AutoOff(window=4, flat=False), torch.arange(4.0), torch.tensor([2, 3])
    first, second = Watch(rule), Watch(rule)
    for _ in range(3):
        first.note(scores, chosen)
    second.load_state_dict(first.state_dict())
    second.note(scores, chosen)
    second.look({"score": 1.5, "learn": 0.5, "turn": 0.0}.__getitem__)
    assert second.off is None
    # The next window is whole: rho = 2, and 2 s of choosing do not pay beside 1.9 s.
    for _ in range(4):
        second.note(scores, chosen)
    second.look({"score": 1.5, "learn": 0.5, "turn": 3.9}.__getitem__)
    assert second.reason == "slow"


def test_a_stopwatch_tells_medians_of_the_last_turns():
    """Turns begin at 0, 10, 30 and 35; choosing takes 1, 4, 2 and 3 s of them."""
    readings = iter([0.0, 5.0, 6.0, 10.0, 11.0, 15.0, 30.0, 31.0, 33.0, 35.0, 36.0, 39.0])
    stopwatch = Stopwatch(turns=3, now=lambda: next(readings))
    assert stopwatch.median("turn") == stopwatch.median("score") == 0.0
    found = []
    for _ in range(4):
        stopwatch.turn()
        with stopwatch("score", torch.device("cpu")):
            pass
        found.append((stopwatch.median("turn"), stopwatch.median("score")))
    # Turns of 10, 20 and 5 s; at the fourth the first choice, of 1 s, is no longer looked at.
    assert found == [(0.0, 1.0), (10.0, 2.5), (15.0, 2.0), (10.0, 3.0)]
    assert stopwatch.median("learn") == 0.0


def test_being_off_and_half_a_window_survive_an_interruption():
    flat = made_up([1.0] * 8, [1.0] * 8)

    def fresh():
        return by_columns(temperature=1.0, auto_off=AutoOff(window=4, slow=False))

    whole = run(fresh(), 8, flat)
    assert whole == "ssssuuuu"
    for stop in (2, 6):
        first, second = fresh(), fresh()
        begun = run(first, stop, flat)
        second.load_state_dict(first.state_dict())
        assert begun + run(second, 8 - stop, flat) == whole
        assert second.off == first.off or stop == 2
