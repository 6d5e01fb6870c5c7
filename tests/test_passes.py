"""Scoring and learning in parts: the same numbers, and no trace."""

import pytest
import torch
from torch import nn

from made_learners import Towers, batch, linear_learner, network, pairs
from superbatch.passes import loss_source, part_sizes, traceless
from superbatch.tasks import Classification, Contrastive


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


@pytest.mark.parametrize(("asked", "sizes"), [(0, [128, 128, 128, 128, 88]), (400, [400, 200])])
def test_on_a_cpu_rows_are_scored_as_its_caches_hold_them_unless_asked_otherwise(asked, sizes):
    learner, seen = linear_learner(micro_batch_size=asked), []
    learner.model.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    losses = learner.losses(batch(600))
    assert seen == sizes
    assert torch.allclose(losses, loss_source(learner.model, Classification())(batch(600)))
    seen.clear()
    learner.step(batch(300))
    assert seen == [300]  # what is learned from is another matter


def test_scores_are_fp32_under_bf16():
    losses = loss_source(network(), Classification(), bf16=True)(batch())
    assert losses.dtype == torch.float32


def test_a_trace_is_left_by_no_function_of_a_model():
    model = Towers(dropout=0.5)
    state = torch.get_rng_state()
    embeddings = traceless(model, Contrastive("softmax").embeddings, micro_batch_size=5)
    first, second = embeddings(pairs()), embeddings(pairs())
    assert torch.equal(first.image, second.image)
    assert not first.text.requires_grad
    assert first.image.shape == first.text.shape == (12, 16)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("rows", "of_ranks", "sizes"),
    [
        (7, [7], [3, 3, 1]),
        (6, [6], [3, 3]),
        (2, [2], [2]),
        (6, [6, 7], [2, 2, 2]),  # as many as the 3 + 3 + 1 of the other
        (7, [6, 7], [3, 3, 1]),
        (1, [1, 4], [1]),  # one row cannot be two parts: the other rank's 4 are one as well
        (4, [1, 4], [4]),
    ],
)
def test_ranks_cut_their_rows_into_as_many_parts(rows, of_ranks, sizes):
    assert part_sizes(rows, 3, of_ranks) == sizes


def test_without_a_part_size_there_is_one_part():
    assert part_sizes(7, 0, [7, 6]) == [7]
