"""Models, data and a selector small enough for other people's trainers to run in a second."""

import runpy
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from superbatch.criterion import learnability
from superbatch.selector import Selector


def digits(count):
    """Images ``[count, 1, 8, 8]`` in [-1, 1], their labels, and which they are."""
    found = load_digits()
    images = torch.tensor(found.images[:count], dtype=torch.float32)[:, None] / 8 - 1
    return TensorDataset(images, torch.tensor(found.target[:count]), torch.arange(count))


def classifier(seed, dropout=0.0, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
    )


def losses(model, batch):
    """Per example, of a batch that begins with images and labels."""
    images, labels = batch[0], batch[1]
    return functional.cross_entropy(model(images), labels, reduction="none")


def selector(filter_ratio, task=losses, **others):
    """Of two small models; the online one has dropout, whose draws must not reach the trainer."""
    return Selector(
        **({"online": classifier(1, 0.5, 8), "reference": classifier(2, 0.0, 8)} | others),
        task=task,
        criterion=learnability,
        filter_ratio=filter_ratio,
        temperature=0.1,
        seed=3,
    )


def learned(chooser):
    """How many steps the online model of a selector has taken."""
    return chooser.state_dict()["online"]["steps"]


def same_weights(first, second):
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def example(name):
    """The ``main`` of an example, as it is written."""
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / f"{name}.py"))["main"]


def same_state(one, other):
    """Whether two states, of dicts, lists, tensors and plain values, are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return one == other
