import math

import pytest
import torch
from torch import nn

from superbatch.tasks import Classification, Task


class Logits(nn.Module):
    """Answers with what it is shown."""

    def forward(self, image):
        return image.flatten(1)


def batch(logits, labels):
    return {
        "id": torch.arange(len(labels)),
        "image": torch.tensor(logits)[:, None, None, :],
        "label": torch.tensor(labels),
    }


# softmax of (ln 3, 0) is (3/4, 1/4)
BATCH = batch([[math.log(3.0), 0.0], [math.log(3.0), 0.0]], [0, 1])


def test_act_loss_by_hand():
    losses = Classification().act_loss(Logits(), BATCH)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])


def test_learn_loss_is_their_mean():
    loss = Classification().learn_loss(Logits(), BATCH)
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_label_smoothing_is_in_the_learn_loss_only():
    smooth = Classification(label_smoothing=0.2)
    # The target is (0.9, 0.1): 0.9 ln(4/3) + 0.1 ln 4, and mirrored for the second example.
    first = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    second = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    assert float(smooth.learn_loss(Logits(), BATCH)) == pytest.approx((first + second) / 2)
    assert smooth.act_loss(Logits(), BATCH).tolist() == pytest.approx(
        [math.log(4 / 3), math.log(4)]
    )


def test_bytes_are_brought_to_minus_one_to_one():
    image = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    seen = Classification().logits(Logits(), {"id": torch.zeros(1), "image": image})
    assert seen.tolist() == [[-1.0, 1.0]]


def test_it_is_a_task_whose_examples_do_not_depend_on_each_other():
    assert isinstance(Classification(), Task)
    assert not Classification().coupled


def test_weights_multiply_losses_before_the_mean():
    weighted = {**BATCH, "weight": torch.tensor([0.5, 2.0])}
    loss = Classification().learn_loss(Logits(), weighted)
    assert float(loss) == pytest.approx((0.5 * math.log(4 / 3) + 2 * math.log(4)) / 2)
    assert torch.equal(
        Classification().act_loss(Logits(), weighted), Classification().act_loss(Logits(), BATCH)
    )
    ones = {**BATCH, "weight": torch.ones(2)}
    for task in (Classification(), Classification(label_smoothing=0.2)):
        plain = float(task.learn_loss(Logits(), BATCH))
        assert float(task.learn_loss(Logits(), ones)) == pytest.approx(plain)


def test_a_model_is_shown_the_inputs_that_are_named_in_their_order():
    class Counting(nn.Module):
        """Logits: how many tokens count, and how many are 7."""

        def forward(self, text, mask):
            assert (text.dtype, mask.dtype) == (torch.int64, torch.bool)
            counts = [mask.sum(1), ((text == 7) & mask).sum(1)]
            return torch.stack(counts, dim=1).float()

    texts = {
        "id": torch.arange(2),
        "text": torch.tensor([[7, 7, 5, 0], [5, 0, 7, 7]]),
        "mask": torch.tensor([[True, True, True, False], [True, False, False, False]]),
        "label": torch.tensor([1, 0]),
    }
    task = Classification(inputs=("text", "mask"))
    assert task.logits(Counting(), texts).tolist() == [[3.0, 2.0], [1.0, 0.0]]
    by_hand = [math.log1p(math.exp(1.0)), math.log1p(math.exp(-1.0))]
    assert task.act_loss(Counting(), texts).tolist() == pytest.approx(by_hand)
    assert isinstance(task, Task)
