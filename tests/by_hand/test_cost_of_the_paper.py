"""The paper's table 1 from its formula alone, and what counting everything makes of it.

Prices are forward GMACs at 224 px, patch 16; expected values are those of the paper and of a
calculation made apart from this code (its table of break-even betas, to three digits).
"""

from typing import Any

import pytest

from superbatch.cost import Plan, Price, break_even_beta, cost_terms, saving, scoring_devices


L, B, S, TI = (Price.of_flops(gmacs) for gmacs in (61.555, 17.564, 4.599, 1.254))


def plan(learner: Price, actor: Price, beta: float, **options: Any) -> Plan:
    return Plan(learner=learner, online=actor, reference=actor, rho=2.0, beta=beta, **options)


RHO = plan(B, TI, 1.00, scorer="learner")
CLASSACT = plan(B, TI, 0.82)
CLASSACT_ONLINE = plan(B, TI, 0.83, reference_training="online")


@pytest.mark.parametrize(
    ("row", "percent", "printed"),
    [(RHO, -78.6, -79), (CLASSACT, 3.06, 3), (CLASSACT_ONLINE, 1.96, 2)],
    ids=["RHO", "ClassAct", "ClassAct-Online"],
)
def test_table_1_from_equation_5(row, percent, printed):
    exact = 100 * saving(row, "paper")
    assert exact == pytest.approx(percent, abs=0.05)
    assert round(exact) == printed


def test_table_1_s_rho_with_the_learner_as_its_own_online_model():
    rho = Plan(learner=B, online=B, reference=TI, rho=2.0, beta=1.0, trains_online=False)
    for accounting in ("paper", "full"):
        assert 100 * saving(rho, accounting) == pytest.approx(-78.6, abs=0.05)


@pytest.mark.parametrize(("actor", "ratio"), [(B, 3.5), (S, 13.4), (TI, 49.1)])
def test_what_actors_cost_against_the_large_learner(actor, ratio):
    assert L.forward / actor.forward == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize(
    ("row", "paper", "full"),
    [
        (CLASSACT, 3.1, -2.8),
        (CLASSACT_ONLINE, 2.0, -56),
        (plan(B, TI, 0.83), 2.0, -4.0),  # the reference's training as in eq. 5
        (plan(B, TI, 0.83, reference_training="online", reference_batch_multiple=2.0), 2.0, -8.7),
        (
            plan(
                B,
                TI,
                0.83,
                reference_training="online",
                reference_batch_multiple=2.0,
                reuse_forward=True,
            ),
            2.0,
            -4.7,
        ),
        (plan(B, TI, 0.83, reference_training="online", reuse_forward=True), 2.0, -52),
        (plan(L, TI, 0.74), 22.0, 20.4),
        (plan(L, B, 0.69), -23.8, -43.5),
        (plan(L, TI, 0.74, reference_training="free"), 24.0, 22.5),
    ],
)
def test_honest_totals(row, paper, full):
    assert 100 * saving(row, "paper") == pytest.approx(paper, abs=0.06)
    assert 100 * saving(row, "full") == pytest.approx(full, abs=0.5 if full < -50 else 0.06)


@pytest.mark.parametrize(
    ("accounting", "options", "percent"),
    [
        ("paper", {}, -121),
        ("paper", {"reference_training": "free"}, -21),
        ("full", {"reference_training": "cached", "scorer": "learner"}, 13),
        (
            "full",
            {"reference_training": "cached", "scorer": "learner", "reuse_forward": True},
            31,
        ),
    ],
)
def test_the_multimodal_runs_save_updates_not_compute(accounting, options, percent):
    # table 2: a ViT-B reference for a ViT-B learner, beta = 0.52
    assert round(100 * saving(plan(B, B, 0.52, **options), accounting)) == percent


def test_the_headline_of_a_quarter_less_compute():
    # needs beta = 0.710 with Ti for L in the paper's accounting
    assert saving(plan(L, TI, 0.710), "paper") == pytest.approx(0.25, abs=0.0005)


@pytest.mark.parametrize(
    ("ratio", "paper", "full", "free", "cached"),
    [
        (17.564 / 61.555, 0.518, 0.429, 0.600, 0.678),
        (4.599 / 61.555, 0.841, 0.788, 0.852, 0.889),
        (1.254 / 61.555, 0.954, 0.935, 0.955, 0.967),
        (0.010, 0.977, 0.967, 0.977, 0.984),
        (0.001, 0.998, 0.997, 0.998, 0.998),
    ],
    ids=["B", "S", "Ti", "100x", "1000x"],
)
def test_break_even_betas(ratio, paper, full, free, cached):
    actor = Price.of_flops(ratio * L.forward)
    scratch = plan(L, actor, 0.5)
    assert round(break_even_beta(scratch, "paper"), 3) == paper
    assert round(break_even_beta(scratch, "full"), 3) == full
    for training, expected in (("free", free), ("cached", cached)):
        there = plan(L, actor, 0.5, reference_training=training)
        assert round(break_even_beta(there, "full"), 3) == expected


def test_break_even_of_a_tiny_actor_for_a_base_learner():
    assert round(break_even_beta(CLASSACT, "paper"), 3) == 0.848
    assert round(break_even_beta(CLASSACT, "full"), 3) == 0.796


@pytest.mark.parametrize(
    ("learner", "rho", "scoring", "with_online"),
    [
        (L, 2.0, 2.7, 4.8),
        (L, 5.0, 6.8, 8.8),
        (L, 10.0, 13.6, 15.6),
        (B, 2.0, 9.5, 16.7),
        (B, 10.0, 47.6, 54.7),
    ],
)
def test_scoring_overhead_of_a_learner_step(learner, rho, scoring, with_online):
    step = Plan(learner=learner, online=TI, reference=TI, rho=rho, beta=1.0)
    assert 100 * scoring_devices(step) == pytest.approx(scoring, abs=0.05)
    updates = cost_terms(step, "full").online_updates
    assert 100 * (scoring_devices(step) + updates) == pytest.approx(with_online, abs=0.06)
