"""What the tests of the Selector share: small models, digits, and columns of made-up losses."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from superbatch.criterion import learnability
from superbatch.selector import Selector
from superbatch.tables import LossTable, Piece, Provenance, ScoredBy, write_table
from superbatch.tasks import Classification


def small(seed, width=16, classes=10):
    """With everything that scoring could disturb: batch norm and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, classes),
    )


def linear(seed):
    """Without anything that depends on chance or on the rest of the batch."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def digits(steps, rows=16, first=0):
    """``steps`` super-batches of real digits: dicts of id, image and label."""
    data = load_digits()
    image = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    label = torch.tensor(data.target)
    for step in range(steps):
        id = torch.arange(first + step * rows, first + (step + 1) * rows)
        yield {"id": id, "image": image[id], "label": label[id]}


def selector(**settings):
    """Of small models on digits."""
    settings = {"filter_ratio": 0.5, "online": small(1), "reference": small(2)} | settings
    return Selector(**{"task": Classification(), "criterion": learnability} | settings)


class Column(nn.Module):
    """A model whose losses are a column of the batch."""

    def __init__(self, name, gain=1.0):
        super().__init__()
        self.name = name
        self.gain = nn.Parameter(torch.tensor(gain))
        self.unused = nn.Parameter(torch.tensor(float(len(name))))


def column(model, batch):
    """The task of such models."""
    return batch[model.name] * model.gain


def made_up(online, reference, **others):
    """A batch of known losses."""
    losses = {"online": torch.tensor(online), "reference": torch.tensor(reference)}
    return losses | others


def by_columns(**settings):
    """A Selector of such models that takes the best half."""
    given = {"online": Column("online"), "reference": Column("reference"), "temperature": 0.0}
    return Selector(**{"task": column, "filter_ratio": 0.5} | given | settings)


@dataclass
class Images:
    """A batch as a dataclass, with what is not a row."""

    image: Tensor
    label: Tensor
    names: list
    epoch: int


def cross_entropy(model, batch):
    """A plain function of a pair."""
    image, label = batch
    return functional.cross_entropy(model(image), label, reduction="none")


def table(path, ids, losses):
    """A table of ``losses`` by ``ids``, open."""
    scorer = ScoredBy(model="mu", checkpoint="a", weights="w", loss="cross_entropy")
    about = Provenance(
        data="made",
        fingerprint="0" * 16,
        preprocessing="none",
        image_size=8,
        columns={"loss": scorer},
        library="1",
    )
    columns = {"loss": np.asarray(losses, dtype=np.float32)}
    write_table(path, about, [Piece(np.asarray(ids, dtype=np.int64), columns)])
    return LossTable.open(path)
