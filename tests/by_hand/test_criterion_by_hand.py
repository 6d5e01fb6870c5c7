import math
from typing import get_args

import numpy as np
import pytest
import torch

from superbatch import criterion, measures
from superbatch.checks import OF_LOSSES, WITHIN
from superbatch.config import Select
from superbatch.criterion import Criterion
from superbatch.errors import ConfigError
from superbatch.roles import ROLES_OF


BATCH = {"id": torch.tensor([7, 8, 9])}
LOSSES = {
    "learner": lambda batch: torch.tensor([3.0, 1.0, 2.0]),
    "online": lambda batch: torch.tensor([2.0, 0.5, 1.0]),
    "reference": lambda batch: torch.tensor([0.5, 0.5, 3.0]),
}


@pytest.mark.parametrize(
    ("name", "expected", "roles"),
    [
        ("uniform", [0.0, 0.0, 0.0], set()),
        ("hard", [2.0, 0.5, 1.0], {"online"}),
        ("hard_learner", [3.0, 1.0, 2.0], {"learner"}),
        ("easy", [-0.5, -0.5, -3.0], {"reference"}),
        ("learnability", [1.5, 0.0, -2.0], {"online", "reference"}),
        ("rho_loss", [2.5, 0.5, -1.0], {"learner", "reference"}),
        ("grad_norm", [3.0, 1.0, 2.0], {"learner"}),
        ("grad_norm_is", [math.log(3), 0.0, math.log(2)], {"learner"}),
        ("grad_norm_full", [3.0, 1.0, 2.0], {"learner"}),
        ("entropy", [3.0, 1.0, 2.0], {"learner"}),
        ("conditional_entropy", [3.0, 1.0, 2.0], {"learner"}),
        ("bald", [3.0, 1.0, 2.0], {"learner"}),
        ("loss_minus_conditional_entropy", [3.0, 1.0, 2.0], {"learner"}),
        # percentiles 5/6, 1/6, 3/6; the mean is 2, and half as likely is - log 2
        ("selective_backprop", [math.log(5 / 6), math.log(1 / 6), math.log(3 / 6)], {"learner"}),
        ("infobatch", [0.0, -math.log(2), 0.0], {"learner"}),
    ],
)
def test_scores_are_the_papers(name, expected, roles):
    one = criterion.CRITERIA[name]
    assert one is getattr(criterion, name)
    assert one.score(BATCH, LOSSES).tolist() == pytest.approx(expected)
    assert one.roles == roles


def test_a_score_runs_only_the_models_it_weighs():
    with pytest.raises(KeyError):
        criterion.easy.score(BATCH, {"online": LOSSES["online"]})
    assert criterion.easy.score(BATCH, {"reference": LOSSES["reference"]}).tolist()


def test_differences_are_taken_in_fp32():
    # 2.34375 and 2.328125 are neighbours in bf16; their difference has no rounding in fp32,
    # while 0.001 would vanish beside 2.34375 in bf16.
    near = {
        "online": lambda batch: torch.tensor([2.34375, 2.34375, 2.34375], dtype=torch.bfloat16),
        "reference": lambda batch: torch.tensor([2.328125, 0.0, 0.001]),
    }
    score = criterion.learnability.score(BATCH, near)
    assert score.dtype == torch.float32
    assert score.tolist() == pytest.approx([0.015625, 2.34375, 2.34275], abs=1e-6)


def test_a_role_that_does_not_exist_is_refused(unchecked):
    with pytest.raises(ConfigError, match="learner, online, reference; it was given teacher"):
        Criterion({"teacher": 1.0})


def test_a_criterion_is_a_value():
    weights = {"online": 1.0}
    one = Criterion(weights)
    weights["reference"] = -1.0
    assert one.roles == {"online"}
    assert one == criterion.hard


def test_the_shape_makes_scores_of_the_sums():
    def halves(sums):
        return (sums > sums.median()).float()

    shaped = Criterion({"learner": 1.0, "reference": -1.0}, shape=halves)
    assert shaped.score(BATCH, LOSSES).tolist() == [1.0, 0.0, 0.0]  # of 2.5, 0.5, -1


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_rank_power_has_the_probabilities_of_composers_selective_backprop(keep):
    # The formula of mosaicml/composer's select_using_loss: percentiles of the sorted losses are
    # arange(0.5, N) / N, and examples are drawn without replacement with p ~ percentile ^ (1/keep
    # - 1). Ours draws from the softmax of scores over the temperature, here keep / (1 - keep).
    losses = torch.randn(40, generator=torch.Generator().manual_seed(0))
    percentiles = np.arange(0.5, 40, 1) / 40
    theirs = np.empty(40)
    theirs[np.argsort(losses.numpy())] = percentiles ** (1 / keep - 1)
    theirs /= theirs.sum()
    scores = criterion.log_percentile(losses)
    ours = torch.softmax(scores / (keep / (1 - keep)), dim=0)
    assert ours.numpy() == pytest.approx(theirs, abs=1e-6)


def test_ties_share_a_percentile():
    scores = criterion.log_percentile(torch.tensor([1.0, 5.0, 1.0, 7.0]))
    assert scores.exp().tolist() == pytest.approx([1 / 4, 5 / 8, 1 / 4, 7 / 8])


def test_gradient_norms_are_drawn_in_proportion():
    norms = torch.tensor([0.2, 0.6, 0.0, 1.2])
    p = torch.softmax(criterion.log(norms), dim=0)
    assert p.tolist() == pytest.approx([0.1, 0.3, 0.0, 0.6], abs=1e-6)
    assert criterion.log(norms).isfinite().all()


@pytest.mark.parametrize("name", ["log", "log_percentile", "keep_half_below_mean"])
def test_what_is_not_finite_stays_so_and_moves_no_other(name):
    shape = getattr(criterion, name)
    some = torch.tensor([1.0, 4.0, 2.0])
    found = shape(torch.tensor([1.0, math.nan, 4.0, 2.0]))
    assert not found[1].isfinite()
    assert torch.equal(found[[0, 2, 3]], shape(some))


def test_a_configuration_names_every_criterion():
    assert set(get_args(Select.model_fields["criterion"].annotation)) == set(criterion.CRITERIA)


def test_whom_a_criterion_asks_is_known_without_it():
    assert {name: one.roles for name, one in criterion.CRITERIA.items()} == dict(ROLES_OF)


def test_the_criteria_that_pairs_can_be_chosen_by_together_are_sums_of_losses():
    plain = {
        name
        for name, one in criterion.CRITERIA.items()
        if one.measure == measures.loss and one.shape is criterion.as_is
    }
    assert plain == set(OF_LOSSES)


def test_the_criteria_whose_scores_are_of_one_super_batch():
    sums = torch.tensor([1.0, 4.0, 2.0])
    within = {
        name
        for name, one in criterion.CRITERIA.items()
        if one.shape(sums)[0] != one.shape(sums[:1])
    }
    assert within == set(WITHIN)
