"""Pairs in parts: cached gradients are those of the whole batch."""

import pytest
import torch
from torch import nn

from made_learners import Towers, assert_close, batch, constant, linear_learner, pairs
from superbatch.learner import Learner, Optimisation, parameter_groups
from superbatch.passes import InParts, loss_source
from superbatch.tasks import Contrastive


def pair_learner(model, task=None, **changes):
    return Learner(model, task or Contrastive("softmax"), Optimisation(constant, **changes))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("act", ["dot", "contrastive", "sigmoid_diagonal"])
def test_scores_of_pairs_in_parts_are_those_of_the_whole_super_batch(loss, act):
    model = Towers(dropout=0.5, sigmoid=loss == "sigmoid")
    whole = loss_source(model, Contrastive(loss, act))(pairs())
    parts = loss_source(model, Contrastive(loss, act), micro_batch_size=5)(pairs())
    assert torch.allclose(parts, whole, atol=1e-6)
    assert model.rows == [12, 5, 5, 2]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_cached_gradients_are_those_of_the_whole_contrastive_batch(loss):
    learners = [
        pair_learner(
            Towers(sigmoid=loss == "sigmoid"),
            Contrastive(loss),
            clip_norm=0.0,
            micro_batch_size=micro_batch_size,
        )
        for micro_batch_size in (0, 5)
    ]
    losses = [float(learner.step(pairs())) for learner in learners]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_close(gradients(learners[1].model), gradients(learners[0].model), 1e-5)
    assert learners[1].model.rows == [5, 5, 2, 2, 5, 5]  # again from the last


def test_cached_gradients_are_exact_with_dropout():
    torch.manual_seed(3)
    learner = pair_learner(Towers(dropout=0.5), clip_norm=0.0, micro_batch_size=5)
    torch.manual_seed(4)
    learner.step(pairs())
    # The same draws by hand: the towers part by part, all of it kept.
    model = Towers(dropout=0.5)
    image = pairs()["image"].float() / 127.5 - 1
    parts = list(zip(image.split(5), pairs()["text"].split(5), strict=True))
    torch.manual_seed(4)
    outputs = [model(*part) for part in parts]
    images, texts = (torch.cat([output[tower] for output in outputs]) for tower in (0, 1))
    logits = model.logit_scale.exp() * images @ texts.T
    own = torch.arange(12)
    loss = nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)
    (loss / 2).backward()
    assert_close(gradients(learner.model), gradients(model), 1e-5)


def test_dropout_goes_on_as_if_nothing_had_been_run_twice():
    states = []
    for micro_batch_size in (6, 0):
        learner = pair_learner(Towers(dropout=0.5), micro_batch_size=micro_batch_size)
        torch.manual_seed(4)
        learner.step(pairs())
        states.append(torch.rand(1))
    assert torch.equal(*states)


def test_batch_norm_learns_of_each_part_once():
    norm = nn.BatchNorm1d(2)
    parts = InParts(norm, 2)
    values = torch.tensor([[0.0, 0.0], [2.0, 4.0], [6.0, 0.0], [6.0, 8.0]], requires_grad=True)
    parts(values)[:, 0].sum().backward()
    # means of the parts: 1 and 2, then 6 and 4; each moves the average a tenth of the way
    assert norm.running_mean.tolist() == pytest.approx([0.69, 0.58])
    assert int(norm.num_batches_tracked) == 2
    assert norm.track_running_stats


@pytest.mark.parametrize(("micro_batch_size", "twice"), [(0, False), (12, False), (11, True)])
def test_only_cached_gradients_recompute(micro_batch_size, twice):
    learner = pair_learner(Towers(), micro_batch_size=micro_batch_size)
    assert not learner.recomputes
    learner.step(pairs())
    assert learner.recomputes is twice
    classifier = linear_learner(micro_batch_size=micro_batch_size)
    classifier.step(batch())
    assert not classifier.recomputes


def test_a_batch_in_parts_is_never_held_as_floats(monkeypatch):
    brought = []

    def counted(image):
        brought.append(len(image))
        return image.float() / 255

    monkeypatch.setattr("superbatch.tasks.pixels.pixels", counted)
    loss_source(Towers(), Contrastive("softmax"), micro_batch_size=5)(pairs())
    assert brought == [5, 5, 2]
    image = torch.full((12, 3, 4, 4), 255, dtype=torch.uint8)
    assert InParts(nn.Flatten(), 5)(image).mean() == 1.0


def test_scale_and_bias_do_not_decay():
    model = Towers(sigmoid=True)
    decayed, spared, numbers = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert {id(p) for p in decayed["params"]} == {id(model.image[1].weight), id(model.text.weight)}
    assert spared["weight_decay"] == 0.0
    assert numbers["weight_decay"] == 0.0
    assert numbers["params"] == [model.logit_scale, model.logit_bias]


def test_an_update_leaves_the_scale_within_its_bounds():
    model = Towers()
    learner = Learner(model, Contrastive("softmax"), Optimisation(schedule=lambda step: 50.0))
    learner.step(pairs())
    # Adam's first step is as long as the learning rate.
    assert model.logit_scale.item() in (0.0, pytest.approx(4.6052, abs=1e-4))
