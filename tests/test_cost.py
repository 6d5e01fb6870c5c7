import dataclasses
from typing import Any

import pytest

from superbatch.cost import (
    NO_MODEL,
    Plan,
    Price,
    break_even_beta,
    cost_terms,
    relative_cost,
    saving,
    scoring_devices,
    summary,
    verdict,
)
from superbatch.errors import ConfigError


# forward 60 and update 180 for the learner, 6 and 18 for both actors: a tenth of everything
BASE: dict[str, Any] = {
    "learner": Price.of_flops(60),
    "online": Price.of_flops(6),
    "reference": Price.of_flops(6),
    "rho": 3.0,
    "beta": 0.5,
}


def plan(**changes: Any) -> Plan:
    return Plan(**{**BASE, **changes})


def test_every_term_by_hand():
    # of 180 per uniform example: half of it; 3 * 6 / 180 = 0.1 each for scoring, halved; 18 / 180
    # for the online model's update, halved; 18 / 180 for the reference, once
    assert dataclasses.asdict(cost_terms(plan(), "full")) == pytest.approx(
        {
            "learner": 0.5,
            "scoring_learner": 0.0,
            "scoring_online": 0.05,
            "scoring_reference": 0.05,
            "online_updates": 0.05,
            "reference_training": 0.1,
            "reused": 0.0,
        }
    )
    assert relative_cost(plan(), "full") == pytest.approx(0.75)
    assert saving(plan(), "full") == pytest.approx(0.25)


def test_the_paper_leaves_out_only_the_online_models_updates():
    paper, full = (dataclasses.asdict(cost_terms(plan(), name)) for name in ("paper", "full"))
    assert paper == {**full, "online_updates": 0.0}


@pytest.mark.parametrize(
    ("changes", "full"),
    [
        ({"trains_online": False}, 0.70),
        ({"rho": 1.0}, 0.5 + 2 * 0.1 / 3 / 2 + 0.05 + 0.1),
        ({"reference_training": "free"}, 0.65),
        ({"reference_training": "cached"}, 0.60),
        ({"reference_training": "amortised", "amortised_over": 4}, 0.675),
        ({"reference_examples_ratio": 2.0}, 0.85),
        ({"reference_training": "online", "reference_batch_multiple": 4.0}, 0.65 + 0.5 * 4 * 0.1),
        # 3 forward passes of 6 per step, shared with its own update on 4: 18 / 180, halved
        (
            {
                "reference_training": "online",
                "reference_batch_multiple": 4.0,
                "reuse_forward": True,
            },
            0.85 - 0.05,
        ),
        # trained on fewer than are scored, only as many are shared
        (
            {
                "reference_training": "online",
                "reference_batch_multiple": 2.0,
                "reuse_forward": True,
            },
            0.75 - 0.5 * 2 * 6 / 180,
        ),
        # the learner scores 3 at 60 / 180 each, halved; the online model is gone
        ({"scorer": "learner"}, 0.5 + 0.5 + 0.05 + 0.1),
        ({"scorer": "learner", "reuse_forward": True}, 1.15 - 0.5 / 3),
        ({"online": NO_MODEL, "reference": NO_MODEL}, 0.5),
    ],
)
def test_each_choice_by_hand(changes, full):
    assert relative_cost(plan(**changes), "full") == pytest.approx(full)


def test_seconds_need_not_be_three_to_one():
    # forward 1, update 4 for the learner; 0.5 and 1 for the actors
    timed = plan(learner=Price(1.0, 4.0), online=Price(0.5, 1.0), reference=Price(0.5, 1.0))
    # 0.5 * (1 + 3 * (0.5 + 0.5) / 4 + 1 / 4) + 1 / 4
    assert relative_cost(timed, "full") == pytest.approx(1.25)


@pytest.mark.parametrize("accounting", ["paper", "full"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"reference_training": "online"}, {"scorer": "learner"}, {"reference_training": "cached"}],
)
def test_breaking_even_is_where_the_cost_is_one(accounting, changes):
    beta = break_even_beta(plan(**changes), accounting)
    assert relative_cost(plan(beta=beta, **changes), accounting) == pytest.approx(1.0)
    assert verdict(plan(beta=beta * 0.999, **changes), accounting) == "compute-positive"
    assert verdict(plan(beta=beta * 1.001, **changes), accounting) == "compute-negative"


def test_costing_the_same_does_not_pay():
    alone = plan(online=NO_MODEL, reference=NO_MODEL, beta=1.0)
    assert verdict(alone, "full") == "compute-negative"


def test_no_beta_pays_for_a_reference_that_costs_as_much_as_the_run():
    large = plan(reference=Price.of_flops(90))
    assert break_even_beta(large, "paper") == break_even_beta(large, "full") == 0.0


def test_devices_that_score_do_not_depend_on_beta():
    # 3 * (6 + 6) per step against 180
    assert scoring_devices(plan()) == scoring_devices(plan(beta=1.0)) == pytest.approx(0.2)
    assert scoring_devices(plan(reference_training="cached")) == pytest.approx(0.1)


def test_a_summary_holds_every_number_once():
    told = summary(plan(beta=0.8))
    assert set(told) == {"terms", "paper", "full", "verdict"}
    assert told["terms"]["online_updates"] == {"paper": 0.0, "full": pytest.approx(0.08)}
    # 0.8 * (1 + 0.2) + 0.1 = 1.06, and 0.08 more
    assert told["paper"]["relative_cost"] == pytest.approx(1.06)
    assert told["full"] == {
        "relative_cost": pytest.approx(1.14),
        "saving": pytest.approx(-0.14),
        "break_even_beta": pytest.approx(0.9 / 1.3),
        "verdict": "compute-negative",
    }


def test_where_the_accountings_differ_the_full_one_decides():
    told = summary(plan(beta=0.72))  # 0.72 * 1.2 + 0.1 = 0.964; 0.072 more is 1.036
    assert told["paper"]["verdict"] == "compute-positive"
    assert told["verdict"] == told["full"]["verdict"] == "compute-negative"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 0.5}, r"rho \(0.5\) must be a number, at least 1"),
        ({"rho": float("nan")}, r"rho \(nan\)"),
        ({"rho": float("inf")}, r"rho \(inf\)"),
        ({"beta": 0.0}, r"beta \(0.0\) must be a number above 0"),
        ({"beta": float("inf")}, r"beta \(inf\)"),
        ({"learner": NO_MODEL}, "the learner must have a price above 0"),
        ({"online": Price(-1.0, 3.0)}, "online model cannot cost -1"),
        ({"reference": Price(1.0, float("inf"))}, "reference model cannot cost"),
        ({"reference_batch_multiple": -1.0}, "reference_batch_multiple"),
        ({"reference_examples_ratio": -1.0}, "reference_examples_ratio"),
        ({"amortised_over": 0, "reference_training": "amortised"}, "amortised_over"),
        ({"amortised_over": 3}, "3 runs does not go with reference training 'scratch'"),
        ({"reuse_forward": True}, "no forward pass to reuse"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**changes)
