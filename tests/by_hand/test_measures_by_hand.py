"""Each measure against numbers worked out on paper, or against the slow way of saying it."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from timm.models import vision_transformer
from torch import nn

from superbatch import measures
from superbatch.errors import ConfigError
from superbatch.models.build import build_model
from superbatch.passes import traceless
from superbatch.tasks import Classification, Contrastive


TASK = Classification()


class Answers(nn.Module):
    """Answers with what it is shown."""

    def forward(self, image):
        return image.flatten(1)


def batch(logits, labels):
    return {
        "id": torch.arange(len(labels)),
        "image": torch.tensor(logits)[:, None, None, :],
        "label": torch.tensor(labels),
    }


# softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) is (1/2, 1/2)
BATCH = batch([[math.log(3.0), 0.0], [math.log(3.0), 0.0], [0.0, 0.0]], [0, 1, 0])
NATS = {0: math.log(4) - 0.75 * math.log(3), 1: math.log(2)}


def small_vit(dropout=0.0):
    return build_model(
        "mu-2400/4", image_size=8, channels=1, classes=10, seed=0, dropout=dropout
    ).eval()


def digits(count):
    random = torch.Generator().manual_seed(0)
    return {
        "id": torch.arange(count),
        "image": torch.randint(0, 256, (count, 1, 8, 8), generator=random, dtype=torch.uint8),
        "label": torch.randint(0, 10, (count,), generator=random),
    }


def test_entropy_by_hand_and_scipys():
    found = measures.entropy.of(TASK, Answers(), BATCH)
    assert found.tolist() == pytest.approx([NATS[0], NATS[0], NATS[1]])
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double(), dim=1).numpy()
    found = measures.entropy.of(TASK, Answers(), batch(logits.tolist(), [0] * 20))
    assert found.numpy() == pytest.approx(scipy.stats.entropy(p, axis=1), abs=1e-6)


def test_the_entropy_of_a_certain_answer_is_0():
    certain = batch([[0.0, -200.0, -math.inf]], [1])
    assert measures.entropy.of(TASK, Answers(), certain).tolist() == [0.0]


def test_last_layer_gradient_norm_by_hand():
    # (3/4, 1/4) - (1, 0) is (-1/4, 1/4); less (0, 1) it is (3/4, -3/4); (1/2, 1/2) - (1, 0)
    found = measures.last_layer_gradient_norm.of(TASK, Answers(), BATCH)
    assert found.tolist() == pytest.approx(
        [math.sqrt(2) / 4, 3 * math.sqrt(2) / 4, math.sqrt(2) / 2]
    )


def test_last_layer_gradient_norm_is_autograds_by_the_logits():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.arange(9) % 5
    nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    found = measures.last_layer_gradient_norm.of(
        TASK, Answers(), batch(logits.tolist(), labels.tolist())
    )
    assert found.tolist() == pytest.approx(logits.grad.norm(dim=1).tolist(), abs=1e-6)


@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_gradient_norm_is_autograds_one_example_at_a_time(micro_batch_size, monkeypatch):
    model, examples = small_vit(), digits(8)
    expected = []
    for loss in TASK.act_loss(model, examples):
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        expected.append(math.sqrt(sum(float(one.double().square().sum()) for one in gradients)))
    model.requires_grad_(False).train()
    monkeypatch.setattr(measures, "_NUMBERS_AT_ONCE", 200_000)  # some examples at a time
    found = traceless(
        model,
        lambda model, batch: measures.gradient_norm.of(TASK, model, batch),
        micro_batch_size=micro_batch_size,
    )(examples)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert model.training
    assert all(value.grad is None for value in model.parameters())


def mc_dropout_by_numpy(model, examples, passes, seed):
    """[passes, n, C] probabilities by the plainest loop: all of the model in train mode."""
    torch.manual_seed(seed)
    model.train()
    logits = [model(examples["image"].float() / 127.5 - 1) for _ in range(passes)]
    model.eval()
    return torch.softmax(torch.stack(logits).double(), dim=2).detach().numpy()


def test_dropout_measures_are_those_of_a_naive_loop():
    model, examples, k = small_vit(dropout=0.3), digits(16), 4
    state = torch.get_rng_state()
    found = {
        name: make(k).of(TASK, model, examples).detach().double().numpy()
        for name, make in (
            ("conditional_entropy", measures.conditional_entropy),
            ("bald", measures.bald),
            ("loss_minus_conditional_entropy", measures.loss_minus_conditional_entropy),
        )
    }
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    p = mc_dropout_by_numpy(model, examples, k, seed=sum(2 * i + 1 for i in range(16)))
    conditional = scipy.stats.entropy(p, axis=2).mean(axis=0)
    assert found["conditional_entropy"] == pytest.approx(conditional, abs=1e-5)
    bald = scipy.stats.entropy(p.mean(axis=0), axis=1) - conditional
    assert found["bald"] == pytest.approx(bald, abs=1e-5)
    assert bald.max() > 0.001
    label = examples["label"].numpy()
    losses = -np.log(p[:, np.arange(16), label]).mean(axis=0)
    assert found["loss_minus_conditional_entropy"] == pytest.approx(losses - conditional, abs=1e-5)


class Tokens(nn.Module):
    """torch's own encoder, of an image's rows as tokens; it answers otherwise in train mode, as
    Inception does.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        logits = self.head(self.dropout(self.encoder(images[:, 0]).mean(dim=1)))
        return (logits, logits) if self.training and self.answers_twice else logits

    answers_twice = False


def timm_attention():
    """Dropout in the attention alone, which timm fuses."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return vision_transformer.VisionTransformer(
        in_chans=1, num_classes=10, attn_drop_rate=0.4, **sizes
    )


@pytest.mark.parametrize("build", [timm_attention, Tokens])
def test_attention_drops_too(build):
    torch.manual_seed(0)
    model, examples = build().eval(), digits(16)
    nn.init.normal_(model.head.weight)
    found = measures.conditional_entropy(4).of(TASK, model, examples).detach()
    assert not any(module.training for module in model.modules())
    p = mc_dropout_by_numpy(model, examples, 4, seed=sum(2 * i + 1 for i in range(16)))
    assert np.ptp(p, axis=0).max() > 0.01
    expected = scipy.stats.entropy(p, axis=2).mean(axis=0)
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_a_model_as_a_whole_and_its_batch_norms_stay_in_eval_mode():
    torch.manual_seed(0)
    model, examples = Tokens(), digits(16)
    model.encoder.norm1 = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm1d(8))
    model.eval()
    model.answers_twice = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measures.conditional_entropy(2).of(TASK, model, examples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dropout_is_on_within_only_and_its_masks_follow_from_the_examples():
    model, examples = small_vit(dropout=0.3), digits(8)
    measure = measures.bald(3)
    run = traceless(model, lambda model, batch: measure.of(TASK, model, batch))
    model.train()
    torch.manual_seed(1)
    first = run(examples)
    torch.manual_seed(2)  # as after an interruption, say
    assert torch.equal(run(examples), first)
    assert all(module.training for module in model.modules())
    model.eval()
    assert torch.equal(run(examples), first)
    assert not any(module.training for module in model.modules())
    others = {**examples, "id": examples["id"] + 100}
    assert not torch.equal(run(others), first)


def test_other_draws_of_the_same_examples_meet_other_masks():
    model, examples = small_vit(dropout=0.3), digits(8)
    measure = measures.bald(3)
    first, again, other = (
        measure.of(TASK, model, {**examples, "draw": torch.arange(8) + start})
        for start in (500, 500, 900)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # The draw alone decides: other ids of the same images change nothing.
    renamed = {**examples, "id": examples["id"] + 100, "draw": torch.arange(8) + 500}
    assert torch.equal(measure.of(TASK, model, renamed), first)


def test_a_model_without_dropout_cannot_disagree_with_itself():
    with pytest.raises(ConfigError, match=r"the model has none; give it some: --models\.dropout"):
        measures.bald().of(TASK, small_vit(), digits(2))


@pytest.mark.parametrize("measure", ["grad_norm", "entropy", "bald", "conditional_entropy"])
def test_pairs_have_no_classes(measure):
    with pytest.raises(ConfigError, match="probabilities of classes and Contrastive has none"):
        measures.MEASURES[measure].of(Contrastive("softmax"), small_vit(0.1), digits(2))


def test_pairs_share_their_loss():
    with pytest.raises(ConfigError, match="own loss and in Contrastive examples share one"):
        measures.gradient_norm.of(Contrastive("softmax"), small_vit(), digits(2))


def test_what_each_measure_costs():
    assert {name: one.forwards for name, one in measures.MEASURES.items()} == {
        "loss": 1,
        "grad_norm": 1,
        "entropy": 1,
        "grad_norm_full": 3,
        "conditional_entropy": 10,
        "bald": 10,
        "loss_minus_conditional_entropy": 10,
    }
