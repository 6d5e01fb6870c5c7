"""Small models and batches for tests of what learns."""

import torch
from torch import nn

from superbatch.learner import Learner, Optimisation
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


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, atol=tolerance), name


class Towers(nn.Module):
    """Two small towers that drop out, as open_clip's answer."""

    def __init__(self, dropout=0.0, sigmoid=False):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Dropout(dropout))
        self.text = nn.Embedding(20, 16)
        self.drop = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0)) if sigmoid else None
        self.rows = []

    def forward(self, image, text):
        self.rows.append(len(image))
        images, texts = self.image(image), self.drop(self.text(text).mean(dim=1))
        towers = nn.functional.normalize(images), nn.functional.normalize(texts)
        scalars = [self.logit_scale.exp()]
        return *towers, *(scalars if self.logit_bias is None else [*scalars, self.logit_bias])


def pairs(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(count),
        "image": torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8),
        "text": torch.randint(20, (count, 5), generator=generator),
    }
