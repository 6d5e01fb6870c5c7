import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, matthews_corrcoef, recall_score
from torch import nn

from superbatch.evaluation import evaluate_classification
from superbatch.tasks import Classification


class Said(nn.Module):
    """Answers the logits that the examples hold."""

    def forward(self, said):
        return said


def evaluated(labels, said, classes):
    logits = torch.nn.functional.one_hot(torch.tensor(said), classes).float()
    batches = [
        {"id": torch.arange(len(part)), "said": logits[part], "label": torch.tensor(labels)[part]}
        for part in torch.arange(len(labels)).split(7)
    ]
    task = Classification(inputs=("said",))
    return evaluate_classification(Said(), batches, classes=classes, task=task)


@pytest.mark.parametrize("right", [0.9, 0.6, 0.1])
def test_accuracy_classes_and_matthews_are_scikit_learns(right):
    random = np.random.default_rng(0)
    labels = (random.random(50) < 0.7).astype(int)
    said = np.where(random.random(50) < right, labels, 1 - labels)
    found = evaluated(labels.tolist(), said.tolist(), 2)
    assert found.matthews == pytest.approx(matthews_corrcoef(labels, said))
    assert found.top1 == pytest.approx(accuracy_score(labels, said))
    assert list(found.per_class) == pytest.approx(recall_score(labels, said, average=None))
    assert found.metrics()["val/matthews"] == found.matthews


def test_who_says_always_the_same_has_no_correlation():
    # CoLA's majority: scikit-learn says 0 too
    assert matthews_corrcoef([0, 1, 1], [1, 1, 1]) == 0
    assert evaluated([0, 1, 1], [1, 1, 1], 2).matthews == 0
    assert evaluated([1, 1], [1, 1], 2).matthews == 0


def test_of_more_classes_there_is_none():
    found = evaluated([0, 1, 2], [0, 1, 1], 3)
    assert found.matthews is None
    assert "val/matthews" not in found.metrics()


class Rows(nn.Module):
    """Says the first class of all, and how many rows it saw each time."""

    def __init__(self):
        super().__init__()
        self.saw = []

    def forward(self, image):
        assert image.dtype == torch.float32
        self.saw.append(len(image))
        return torch.eye(2)[torch.zeros(len(image), dtype=torch.int64)]


def test_a_model_on_the_cpu_sees_as_few_rows_at_once_as_when_it_scores():
    model = Rows()
    image = torch.zeros(300, 1, 2, 2, dtype=torch.uint8)
    label = (torch.arange(300) >= 200).long()
    batch = {"id": torch.arange(300), "image": image, "label": label}
    assert evaluate_classification(model, [batch], classes=2).top1 == pytest.approx(2 / 3)
    assert model.saw == [128, 128, 44]
