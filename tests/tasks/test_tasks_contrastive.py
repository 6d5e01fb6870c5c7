import math
import re

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import nn
from torch.nn import functional

from superbatch.errors import ConfigError
from superbatch.passes import loss_source
from superbatch.tasks import Contrastive, Task


class Shown(nn.Module):
    """Answers with the image that it is shown, and the text as a row of a table."""

    def __init__(self, texts, scale, bias=None):
        super().__init__()
        self.texts = torch.tensor(texts)
        self.scalars = [torch.tensor(value) for value in (scale, bias) if value is not None]

    def forward(self, image, text):
        return image.flatten(1), self.texts[text[:, 0]], *self.scalars


def batch(images):
    count = len(images)
    return {
        "id": torch.arange(count),
        "image": torch.tensor(images)[:, None, None, :],
        "text": torch.arange(count)[:, None],
    }


# Cosines: image 1 with the texts 0.6, 1; image 2 with the texts 0.8, 0.
PAIRS = batch([[1.0, 0.0], [0.0, 1.0]])
TEXTS = [[0.6, 0.8], [1.0, 0.0]]
PLAIN = Shown(TEXTS, 5.0)  # logits 3, 5; 4, 0
BIASED = Shown(TEXTS, 5.0, -1.0)  # logits 2, 4; 3, -1


def log1pexp(x):
    return math.log(1 + math.exp(x))


def clip(kind=CLIP, sigmoid=False):
    torch.manual_seed(0)
    return kind(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=4, image_size=8),
        text_cfg=CLIPTextCfg(context_length=6, vocab_size=50, width=32, heads=2, layers=1),
        **({"init_logit_scale": math.log(10), "init_logit_bias": -10.0} if sigmoid else {}),
    )


def pairs(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(count),
        "image": torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "text": torch.randint(1, 50, (count, 6), generator=generator),
    }


def seen(model, shown):
    """What open_clip's own loop would give to its loss."""
    return model(shown["image"].float() / 127.5 - 1, shown["text"])


def test_softmax_learn_loss_by_hand():
    # Each logit against the other of its row, then of its column.
    rows = log1pexp(5 - 3) + log1pexp(4 - 0)
    columns = log1pexp(4 - 3) + log1pexp(5 - 0)
    loss = Contrastive("softmax").learn_loss(PLAIN, PAIRS)
    assert float(loss) == pytest.approx((rows + columns) / 4, rel=1e-6)


def test_sigmoid_learn_loss_by_hand():
    total = log1pexp(-2) + log1pexp(4) + log1pexp(3) + log1pexp(1)
    loss = Contrastive("sigmoid").learn_loss(BIASED, PAIRS)
    assert float(loss) == pytest.approx(total / 2, rel=1e-6)


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_learn_loss_is_open_clips(kind, loss):
    model = clip(kind, sigmoid=loss == "sigmoid")
    theirs = (ClipLoss() if loss == "softmax" else SigLipLoss())(*seen(model, pairs()))
    ours = Contrastive(loss).learn_loss(model, pairs())
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_dot_is_equation_7():
    # minus the dot product of each image and its own text
    assert Contrastive("softmax").act_loss(PLAIN, PAIRS).tolist() == pytest.approx([-0.6, 0.0])
    scaled = Contrastive("sigmoid", score_scale=20.0).act_loss(BIASED, PAIRS)
    assert scaled.tolist() == pytest.approx([-12.0, 0.0])


def test_sigmoid_diagonal_by_hand():
    losses = Contrastive("sigmoid", "sigmoid_diagonal").act_loss(BIASED, PAIRS)
    assert losses.tolist() == pytest.approx([log1pexp(-2), log1pexp(1)])
    losses = Contrastive("softmax", "sigmoid_diagonal").act_loss(PLAIN, PAIRS)
    assert losses.tolist() == pytest.approx([log1pexp(-3), log1pexp(0)])


def test_contrastive_by_hand():
    softmax = Contrastive("softmax", "contrastive").act_loss(PLAIN, PAIRS)
    first, second = (log1pexp(2) + log1pexp(1)) / 2, (log1pexp(4) + log1pexp(5)) / 2
    assert softmax.tolist() == pytest.approx([first, second])
    sigmoid = Contrastive("sigmoid", "contrastive").act_loss(BIASED, PAIRS)
    others = log1pexp(4) + log1pexp(3)
    assert sigmoid.tolist() == pytest.approx([log1pexp(-2) + others, log1pexp(1) + others])


def test_softmax_contrastive_is_brute_force():
    model, shown = clip(), pairs()
    losses = Contrastive("softmax", "contrastive").act_loss(model, shown)
    with torch.no_grad():
        image, text, scale = (part.double() for part in seen(model, shown))
    for i in range(12):
        row = torch.stack([scale * image[i].dot(text[j]) for j in range(12)])
        column = torch.stack([scale * image[j].dot(text[i]) for j in range(12)])
        expected = -(row.log_softmax(0)[i] + column.log_softmax(0)[i]) / 2
        assert losses[i].item() == pytest.approx(expected.item(), abs=1e-5)


def test_sigmoid_contrastive_is_what_the_batch_would_lose_without_the_pair():
    model, shown = clip(sigmoid=True), pairs()
    losses = Contrastive("sigmoid", "contrastive").act_loss(model, shown)
    with torch.no_grad():
        image, text, scale, bias = (part.double() for part in seen(model, shown))
        whole = 12 * SigLipLoss()(image, text, scale, bias)
        for i in range(12):
            rest = [j for j in range(12) if j != i]
            without = 11 * SigLipLoss()(image[rest], text[rest], scale, bias)
            assert losses[i].item() == pytest.approx((whole - without).item(), rel=1e-5)


def test_long_super_batches_are_the_same_in_blocks(monkeypatch):
    model, shown = clip(), pairs()
    losses = loss_source(model, Contrastive("softmax", "contrastive"))
    whole = losses(shown)
    monkeypatch.setattr("superbatch.tasks.contrastive._ROWS_AT_ONCE", 5)
    assert torch.allclose(losses(shown), whole, atol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("act", ["dot", "sigmoid_diagonal", "contrastive"])
def test_only_the_contrastive_act_loss_depends_on_the_others(loss, act):
    model, shown = clip(sigmoid=loss == "sigmoid").eval(), pairs()
    task = Contrastive(loss, act)
    together = task.act_loss(model, shown)
    part = {name: field[3:5] for name, field in shown.items()}
    same = torch.allclose(task.act_loss(model, part), together[3:5], atol=1e-6)
    assert same == (act != "contrastive")


def test_bytes_are_brought_to_minus_one_to_one():
    class Range(nn.Module):
        def forward(self, image, text):
            assert (float(image.min()), float(image.max())) == (-1.0, 1.0)
            return functional.normalize(image.flatten(1)), torch.ones(2, 4) / 2, torch.tensor(1.0)

    image = torch.tensor([[[[0, 255], [0, 255]]]] * 2, dtype=torch.uint8)
    shown = {"id": torch.arange(2), "image": image, "text": torch.zeros(2, 1, dtype=torch.int64)}
    Contrastive("softmax").learn_loss(Range(), shown)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_are_fp32_whatever_the_towers(loss):
    model, shown = clip(sigmoid=loss == "sigmoid"), pairs()
    exact = Contrastive(loss).learn_loss(model, shown)
    for act in ("dot", "sigmoid_diagonal", "contrastive"):
        losses = loss_source(model, Contrastive(loss, act), bf16=True)(shown)
        assert losses.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        rounded = Contrastive(loss).learn_loss(model, shown)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_products_of_embeddings_are_not_rounded_to_bf16():
    images, texts = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2))
    model = Shown(functional.normalize(texts).tolist(), 100.0)
    shown = batch(functional.normalize(images).tolist())
    task = Contrastive("softmax", "contrastive")
    losses = loss_source(model, task, bf16=True)(shown)
    assert torch.allclose(losses, task.act_loss(model, shown), atol=1e-6)


def test_towers_of_different_width_are_refused():
    model = Shown([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], 5.0)
    with pytest.raises(
        ConfigError, match="image tower gives embeddings 2 wide and the text tower 3"
    ):
        Contrastive("softmax").learn_loss(model, PAIRS)


def test_a_model_without_a_scale_is_refused():
    model = Shown(TEXTS, None)
    with pytest.raises(ConfigError, match=r"gives \(.*, scale\), .*; this one gives 2 outputs"):
        Contrastive("softmax").act_loss(model, PAIRS)


@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_a_model_that_gives_a_dict_is_refused(micro_batch_size):
    model = clip()
    model.output_dict = True
    losses = loss_source(model, Contrastive("softmax"), micro_batch_size=micro_batch_size)
    with pytest.raises(ConfigError, match="this one gives dict"):
        losses(pairs(2))


def test_a_scale_with_axes_is_refused():
    with pytest.raises(ConfigError, match=re.escape("their shapes are [(1,)]")):
        Contrastive("softmax").act_loss(Shown(TEXTS, [5.0]), PAIRS)


def test_unknown_losses_are_refused(unchecked):
    with pytest.raises(ConfigError, match=r"loss must be one of softmax, sigmoid; it is hinge"):
        Contrastive("hinge")
    with pytest.raises(ConfigError, match=r"act must be one of dot, .*; it is diagonal"):
        Contrastive("sigmoid", "diagonal")


@pytest.mark.parametrize(("start", "end"), [(-0.5, 0.0), (2.0, 2.0), (9.0, math.log(100.0))])
def test_the_scale_is_kept_between_1_and_100(start, end):
    model = clip()
    nn.init.constant_(model.logit_scale, start)
    Contrastive("softmax").constrain(model)
    assert model.logit_scale.item() == pytest.approx(end)


def test_a_model_with_a_scale_of_its_own_kind_is_left_alone():
    Contrastive("softmax").constrain(PLAIN)
    assert float(PLAIN.scalars[0]) == 5.0


def test_it_is_a_task_whose_pairs_depend_on_each_other():
    assert isinstance(Contrastive("softmax"), Task)
    assert Contrastive("softmax").coupled


def test_pairs_share_their_loss_and_have_no_weights_of_their_own():
    weighted = {**pairs(4), "weight": torch.ones(4)}
    with pytest.raises(ConfigError, match="importance weights are of single examples"):
        Contrastive("softmax").learn_loss(clip(), weighted)
