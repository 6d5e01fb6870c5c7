"""Usual losses, row by row: against torch's and timm's own reductions of one row at a time."""

from functools import partial

import pytest
import torch
from selector_parts import Images
from timm.loss import (
    BinaryCrossEntropy,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import nn
from torch.nn import functional

from superbatch.errors import ConfigError, DataError
from superbatch.selector import per_example


ROWS, CLASSES = 6, 4


class Shown(nn.Module):
    """Answers with what it is shown."""

    def forward(self, outputs, shift=None):
        return outputs if shift is None else outputs + shift


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTPUTS = numbers(ROWS, CLASSES)
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
SOFT = numbers(ROWS, CLASSES, seed=1).softmax(dim=1)
MANY = (numbers(ROWS, CLASSES, seed=2) > 0).float()

CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(), OUTPUTS, LABELS),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.3), OUTPUTS, LABELS),
    "summed": (nn.CrossEntropyLoss(reduction="sum"), OUTPUTS, LABELS),
    "function": (functional.cross_entropy, OUTPUTS, LABELS),
    "part of a function": (
        partial(functional.cross_entropy, label_smoothing=0.3, reduction="mean"),
        OUTPUTS,
        LABELS,
    ),
    "tokens": (
        nn.CrossEntropyLoss(),
        numbers(ROWS, CLASSES, 3),
        torch.stack([LABELS, LABELS.flip(0), LABELS.clamp(max=1)], dim=1),
    ),
    "ignored tokens": (
        nn.CrossEntropyLoss(ignore_index=3),
        numbers(ROWS, CLASSES, 3),
        torch.stack([LABELS, LABELS.clamp(max=2), LABELS.clamp(max=1)], dim=1),
    ),
    "ignored by function": (
        partial(functional.cross_entropy, ignore_index=1),
        numbers(ROWS, CLASSES, 2),
        torch.stack([LABELS, torch.zeros(ROWS, dtype=torch.int64)], dim=1),
    ),
    "likelihood": (nn.NLLLoss(), OUTPUTS.log_softmax(dim=1), LABELS),
    "many labels": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), OUTPUTS, MANY),
    "squares": (nn.MSELoss(), OUTPUTS, SOFT),
    "squares by function": (functional.mse_loss, OUTPUTS[:, 0], SOFT[:, 0]),
    "smooth": (nn.SmoothL1Loss(beta=0.5), OUTPUTS, SOFT),
    "timm's smoothing": (LabelSmoothingCrossEntropy(0.2), OUTPUTS, LABELS),
    "timm's binary": (BinaryCrossEntropy(0.1), OUTPUTS, LABELS),
    "timm's binary, summed": (BinaryCrossEntropy(0.1, sum_classes=True), OUTPUTS, LABELS),
}


@pytest.mark.parametrize("name", CASES)
def test_each_row_has_the_loss_that_it_has_alone(name):
    loss, outputs, targets = CASES[name]
    found = per_example(loss)(Shown(), (outputs, targets))
    alone = [loss(outputs[row : row + 1], targets[row : row + 1]) for row in range(ROWS)]
    wanted = torch.stack(alone)
    if name == "summed" or name.endswith("row"):
        wanted = wanted.float()
    assert found.shape == (ROWS,)
    assert torch.allclose(found, wanted, atol=1e-6)
    # and the loss that was given is as it was
    assert loss(outputs, targets).ndim == 0


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), SoftTargetCrossEntropy()])
def test_mixtures_are_scored_as_said(loss):
    with pytest.raises(DataError, match="as after mixup, and a mixture has no loss of one example"):
        per_example(loss)(Shown(), (OUTPUTS, SOFT))
    mixture = per_example(loss, soft_targets="mixture")(Shown(), (OUTPUTS, SOFT))
    alone = [SoftTargetCrossEntropy()(OUTPUTS[r : r + 1], SOFT[r : r + 1]) for r in range(ROWS)]
    assert torch.allclose(mixture, torch.stack(alone), atol=1e-6)
    largest = per_example(loss, soft_targets="largest")(Shown(), (OUTPUTS, SOFT))
    wanted = functional.cross_entropy(OUTPUTS, SOFT.argmax(dim=1), reduction="none")
    assert torch.allclose(largest, wanted, atol=1e-6)


def test_mixed_labels_of_a_binary_loss_are_seen_at_the_first_look():
    with pytest.raises(DataError, match="as after mixup"):
        per_example(nn.BCEWithLogitsLoss()).first_look(Shown(), (OUTPUTS, SOFT))
    said = per_example(nn.BCEWithLogitsLoss(), soft_targets="mixture")
    assert said.first_look(Shown(), (OUTPUTS, SOFT)) == CLASSES
    assert per_example(nn.BCEWithLogitsLoss()).first_look(Shown(), (OUTPUTS, MANY)) == CLASSES


def test_inputs_and_targets_are_found():
    wanted = functional.cross_entropy(OUTPUTS, LABELS, reduction="none")
    losses = per_example(nn.CrossEntropyLoss())
    for batch in (
        {"pixel_values": OUTPUTS, "labels": LABELS},
        Images(OUTPUTS, LABELS, list("abcdef"), 1),
        [OUTPUTS, LABELS],
        ((OUTPUTS,), LABELS),
        ({"outputs": OUTPUTS}, LABELS),
    ):
        assert torch.equal(losses(Shown(), batch), wanted)
    own = per_example(
        nn.CrossEntropyLoss(), read=lambda batch: ((batch[1], torch.tensor(0.0)), batch[2])
    )
    assert torch.equal(own(Shown(), ("a", OUTPUTS, LABELS)), wanted)


def test_answers_with_logits_are_known():
    class Answer:
        logits = OUTPUTS

    class Model(nn.Module):
        def forward(self, x):
            return Answer()

    found = per_example(nn.CrossEntropyLoss())(Model(), (OUTPUTS, LABELS))
    assert torch.equal(found, functional.cross_entropy(OUTPUTS, LABELS, reduction="none"))


def test_what_has_no_rows_or_is_not_found_is_refused():
    with pytest.raises(ConfigError, match="compares rows with each other"):
        per_example(JsdCrossEntropy())
    with pytest.raises(ConfigError, match="a mixture has no largest class"):
        per_example(nn.BCEWithLogitsLoss(), soft_targets="largest")
    losses = per_example(nn.CrossEntropyLoss())
    with pytest.raises(DataError, match="this batch is tuple of 3; say which is which"):
        losses(Shown(), (OUTPUTS, LABELS, LABELS))
    with pytest.raises(DataError, match="no inputs and targets in a batch with pixels, labels"):
        losses(Shown(), {"pixels": OUTPUTS, "labels": LABELS})
