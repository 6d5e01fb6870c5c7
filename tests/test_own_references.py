import numpy as np
import pytest
import torch
from torch import nn

from superbatch.checks import check
from superbatch.errors import ConfigError
from superbatch.learner import Learner, Optimisation
from superbatch.own_references import Halves, Past
from superbatch.problems import problem_of
from superbatch.recipes import recipe
from superbatch.reference_run import reference_config
from superbatch.sources.splits import in_first_half
from superbatch.tasks import Classification


def rows_of(part):
    return problem_of(recipe("uniform").changed(data={"part": part})).rows


def test_the_halves_are_the_pool_and_no_example_is_in_both():
    first, second, pool = rows_of("first_half"), rows_of("second_half"), rows_of("pool")
    assert sorted([*first, *second]) == pool.tolist()
    assert abs(len(first) - len(second)) < 150  # of 1,438: four deviations


def test_the_half_of_an_example_is_decided_by_its_id_alone():
    ids = np.arange(1000)
    assert np.array_equal(in_first_half(ids, seed=3)[::7], in_first_half(ids[::7], seed=3))
    assert not np.array_equal(in_first_half(ids, seed=3), in_first_half(ids, seed=4))


def test_a_reference_learns_at_a_rate_of_its_own():
    config = recipe("classact").changed(optimise={"learning_rate": 0.002})
    assert reference_config(config, {}).optimise.learning_rate == 0.002
    own = config.changed(reference_training={"learning_rate": 0.005})
    assert reference_config(own, {}).optimise.learning_rate == 0.005
    online = recipe("classact_online").changed(reference_training={"learning_rate": 0.005})
    with pytest.raises(ConfigError, match=r"0.005 is for a reference that is trained beforehand"):
        check(online)


def test_a_reference_learns_with_the_dropout_of_the_models():
    config = recipe("classact").changed(models={"dropout": 0.3})
    assert reference_config(config, {}).models.dropout == 0.3
    problem = problem_of(reference_config(config, {}))
    rates = {
        layer.p for layer in problem.model("learner").modules() if isinstance(layer, nn.Dropout)
    }
    assert 0.3 in rates
    # Where none is asked for its settings name none, also of texts, which then have BERT's.
    assert reference_config(recipe("classact"), {}).models.dropout == 0.0
    assert reference_config(recipe("classact").changed(task="text"), {}).models.dropout == 0.0


class Says(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number))

    def forward(self, image):
        return self.number.expand(len(image))


def test_an_example_is_scored_by_the_reference_that_has_not_learned_it():
    config = recipe("rho_loss_halves")
    problem = problem_of(config)
    halves = Halves(config, problem, torch.device("cpu"))
    halves._models = [Says(1.0), Says(2.0)]  # have learned the first half, the second half
    score = halves.scored(lambda model, batch: model(batch["image"]), lambda model: model)
    learned_by_first = set(problem.examples.ids[rows_of("first_half")].tolist())
    batch = problem.examples.read(problem.rows[:100])
    expected = [2.0 if one in learned_by_first else 1.0 for one in batch["id"].tolist()]
    assert score(batch).tolist() == expected
    assert set(expected) == {1.0, 2.0}


def test_the_past_follows_slowly():
    learner = Learner(Says(3.0), Classification(), Optimisation(schedule=lambda step: 0.1))
    config = recipe("learnability_past").changed(reference_training={"past_decay": 0.75})
    past = Past(config, "online", learner)
    score = past.scored(lambda model, batch: model(batch["image"]), lambda model: model)
    batch = {"id": torch.arange(2), "image": torch.zeros(2, 1, 1, 1)}
    assert score(batch).tolist() == [3.0, 3.0]
    with torch.no_grad():
        learner.model.number.fill_(7.0)
    past.follow()
    assert score(batch).tolist() == [4.0, 4.0]  # 3/4 of 3 and 1/4 of 7
    other = Past(config, "online", learner)
    other.load_state_dict(past.state_dict())
    assert other.model_to_price.number.item() == 4.0
    assert learner.model.number.item() == 7.0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rho_loss_halves", {"reference": "r"}, "trains two references on halves of the data and"),
        ("learnability_past", {"reference": "r"}, "takes a model's own past as its reference and"),
        (
            "easy_reference",
            {"reference_training": {"data": "past"}},
            "criterion easy scores with the reference alone",
        ),
        (
            "active_clip",
            {"reference_training": {"data": "halves"}},
            "learns pairs, which are scored together; take holdout",
        ),
        (
            "jest",
            {"select": {"criterion": "grad_norm"}},
            "--select.joint chooses by losses of pairs and criterion grad_norm",
        ),
        (
            "grad_norm",
            {"select": {"criterion": "grad_norm_full"}, "optimise": {"compile": True}},
            "takes models apart by examples and --optimise.compile",
        ),
        ("active_clip", {"models": {"dropout": 0.1}}, "cannot use --models.dropout"),
        (
            "active_clip",
            {"select": {"importance_exponent": 0.5}},
            "a pair's loss depends on the others in its batch; leave it at 0",
        ),
        (
            "rho_loss",
            {"select": {"importance_exponent": 0.5}},
            "--select.temperature 0 takes the highest scores for certain",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        check(recipe(name).changed(**changes))
