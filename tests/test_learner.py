import pytest
import torch
from torch import nn

from superbatch.learner import Learner, Optimisation, loss_source, warmup_cosine
from superbatch.tasks import Classification


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )


def batch(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(count),
        "image": torch.randn(count, 1, 4, 4, generator=generator),
        "label": torch.arange(count) % 3,
    }


def constant(step):
    return 0.01


def linear_learner(**changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return Learner(model, Classification(), Optimisation(schedule=constant, **changes))


def test_warmup_and_cosine_by_hand():
    rate = warmup_cosine(peak=2.0, warmup=10, steps=110)
    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)  # half way down: cos(pi/2) = 0
    assert rate(110) == pytest.approx(0.0)
    assert warmup_cosine(peak=2.0, warmup=0, steps=4, final_ratio=0.5)(4) == pytest.approx(1.0)


def test_scoring_leaves_no_trace():
    model = network()
    model.train()
    model[1].eval()  # a module may have a mode of its own
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    losses = loss_source(model, Classification())
    first, second = losses(batch()), losses(batch())
    assert torch.equal(first, second)  # dropout was off
    assert not first.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True, True, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_after_an_error():
    model = network()
    with pytest.raises(KeyError):
        loss_source(model, Classification())({"id": torch.arange(2)})
    assert all(module.training for module in model.modules())


def test_a_model_that_draws_random_numbers_even_in_eval_mode_leaves_the_state_alone():
    class Noisy(nn.Module):
        def forward(self, image):
            return image.flatten(1)[:, :3] + torch.randn(3)

    state = torch.get_rng_state()
    loss_source(Noisy(), Classification())(batch())
    assert torch.equal(state, torch.get_rng_state())


def test_losses_in_parts_equal_losses_at_once():
    model = network()
    at_once = loss_source(model, Classification())(batch())
    in_parts = loss_source(model, Classification(), micro_batch_size=5)(batch())
    assert torch.allclose(at_once, in_parts, atol=1e-6)


def test_scores_are_fp32_under_bf16():
    losses = loss_source(network(), Classification(), bf16=True)(batch())
    assert losses.dtype == torch.float32


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
