import pytest
import torch
from torch import nn

from made_learners import assert_close, batch, constant, linear_learner, network
from superbatch.errors import DataError
from superbatch.learner import Learner, Optimisation, parameter_groups, warmup_cosine
from superbatch.tasks import Classification
from superbatch.types import take


def test_warmup_and_cosine_by_hand():
    rate = warmup_cosine(peak=2.0, warmup=10, steps=110)
    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)  # half way down: cos(pi/2) = 0
    assert rate(110) == pytest.approx(0.0)
    assert warmup_cosine(peak=2.0, warmup=0, steps=4, final_ratio=0.5)(4) == pytest.approx(1.0)


def test_a_step_is_adamw():
    ours = linear_learner(clip_norm=0.0, weight_decay=0.1)
    theirs = linear_learner().model
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs[1].weight], "weight_decay": 0.1},
            {"params": [theirs[1].bias], "weight_decay": 0.0},
        ],
        lr=0.01,
        fused=True,
    )
    for _ in range(3):
        loss = Classification().learn_loss(theirs, batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(ours.step(batch()), loss.detach())
    assert torch.equal(ours.model[1].weight, theirs[1].weight)
    assert torch.equal(ours.model[1].bias, theirs[1].bias)


def test_gradient_accumulation_is_the_gradient_of_the_whole():
    whole, parts = linear_learner(), linear_learner(micro_batch_size=5)
    for _ in range(3):
        assert float(whole.step(batch())) == pytest.approx(float(parts.step(batch())), abs=1e-6)
    assert torch.allclose(whole.model[1].weight, parts.model[1].weight, atol=1e-6)


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(DataError, match="not one example to learn from"):
        linear_learner().step(take(batch(), torch.arange(0)))


def test_long_gradients_are_clipped():
    learner = linear_learner(clip_norm=1e-3)
    learner.step(batch())
    norm = torch.cat([p.grad.flatten() for p in learner.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_schedule_counts_updates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    schedule = {1: 0.5, 2: 0.25}.__getitem__
    learner = Learner(model, Classification(), Optimisation(schedule=schedule))
    rates = []
    for _ in range(2):
        learner.step(batch())
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.25]


def test_the_average_of_weights_by_hand():
    learner = linear_learner(ema_decay=0.9)
    start = learner.model[1].weight.detach().clone()
    learner.step(batch())
    own = learner.model[1].weight.detach().clone()
    # The decay warms up: min(0.9, (1 + 1) / (10 + 1)).
    expected = start * 2 / 11 + own * 9 / 11
    with learner.evaluated() as model:
        assert torch.allclose(model[1].weight, expected)
    assert torch.equal(learner.model[1].weight, own)


def test_an_average_of_weights_remembers_no_more_than_it_is_told_to():
    """At the second update 3/12 would be more than 0.2; whole numbers are the last ones."""
    torch.manual_seed(1)  # dropout
    learner = Learner(network(), Classification(), Optimisation(schedule=constant, ema_decay=0.2))
    learner.step(batch())
    first = {name: value.clone() for name, value in learner.evaluated_weights().items()}
    learner.step(batch())
    second, own = learner.evaluated_weights(), learner.model.state_dict()
    for name in ("0.weight", "1.running_mean", "5.bias"):
        assert not torch.equal(first[name], own[name])
        assert torch.allclose(second[name], 0.2 * first[name] + 0.8 * own[name], atol=1e-7), name
    assert first["1.num_batches_tracked"] == 1
    assert second["1.num_batches_tracked"] == 2


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_interrupted_and_resumed_is_identical(ema_decay):
    through = linear_learner(ema_decay=ema_decay)
    for _ in range(4):
        through.step(batch())
    first = linear_learner(ema_decay=ema_decay)
    for _ in range(2):
        first.step(batch())
    second = linear_learner(ema_decay=ema_decay)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step(batch())
    for name, value in through.evaluated_weights().items():
        assert torch.equal(value, second.evaluated_weights()[name])


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_who_takes_over_a_learners_numbers_goes_on_as_it_would(updates, ema_decay):
    through = linear_learner(ema_decay=ema_decay)
    first = linear_learner(ema_decay=ema_decay)
    second = linear_learner(ema_decay=ema_decay)
    second.step(batch(9))  # it has been elsewhere
    for _ in range(updates):
        through.step(batch())
        first.step(batch())
    taken, given = second.numbers(), first.numbers()
    assert taken.keys() == given.keys()
    with torch.no_grad():
        for name, value in taken.items():
            value.copy_(given[name])
    second.steps = first.steps
    for _ in range(3):
        assert torch.equal(second.step(batch()), through.step(batch()))
    for name, value in through.evaluated_weights().items():
        assert torch.equal(value, second.evaluated_weights()[name])


def test_a_model_learns_and_is_scored_through_a_view_of_it():
    class Brighter(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model(image + 1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimisation = Optimisation(schedule=constant, clip_norm=0.0)
    learner = Learner(model, Classification(), optimisation, through=Brighter)
    bright = batch() | {"image": batch()["image"] + 1}
    plain = linear_learner(clip_norm=0.0)
    task = Classification()
    assert torch.equal(learner.losses(batch()), plain.losses(batch()))
    assert torch.equal(learner.scored(task.act_loss, Brighter)(batch()), plain.losses(bright))
    assert torch.equal(learner.step(batch()), plain.step(bright))
    assert_close(learner.model.state_dict(), plain.model.state_dict(), 0.0)


def test_what_a_part_of_a_model_exempts_does_not_decay():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, 4, 8))
            self.weight = nn.Parameter(torch.zeros(8, 8))

        def no_weight_decay(self):
            return {"place"}

    tower = Positions()
    for model, path in ((tower, ""), (nn.ModuleDict({"visual": tower}), "visual.")):
        decayed, spared = parameter_groups(model, 0.1)
        named = dict(model.named_parameters())
        assert decayed["params"] == [named[f"{path}weight"]]
        assert spared["params"] == [named[f"{path}place"]]


@pytest.mark.parametrize("micro_batch_size", [0, 5])
def test_weighted_examples_move_the_weights_by_their_weighted_mean(micro_batch_size):
    weighted = {**batch(), "weight": torch.linspace(0.2, 3.0, 12)}
    learner = linear_learner(clip_norm=0.0, micro_batch_size=micro_batch_size)
    losses = Classification().act_loss(learner.model, batch())
    expected = (weighted["weight"] * losses).sum() / 12
    gradient = torch.autograd.grad(expected, list(learner.model.parameters()))
    loss = learner.step(weighted)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, wanted in zip(learner.model.parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)
