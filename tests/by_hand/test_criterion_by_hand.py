import pytest
import torch

from superbatch import criterion
from superbatch.criterion import Criterion
from superbatch.errors import ConfigError


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
    ],
)
def test_scores_are_the_papers(name, expected, roles):
    one = criterion.CRITERIA[name]
    assert one is getattr(criterion, name)
    assert one.score(BATCH, LOSSES).tolist() == expected
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
