"""Labels made wrong on purpose, for experiments whose truth is known."""

import numpy as np
import torch
from jaxtyping import Int64

from superbatch.errors import DataError
from superbatch.sources.examples import Examples
from superbatch.types import Batch


class WithLabelNoise:
    """``examples`` with some labels replaced; their own labels become ``"truth"``."""

    def __init__(self, examples: Examples, labels: np.ndarray) -> None:
        self._examples = examples
        self.labels = labels
        self.ids = examples.ids
        self.class_names = examples.class_names
        self.image_shape = examples.image_shape
        self.fingerprint = examples.fingerprint
        self._label_of = dict(zip(examples.ids.tolist(), labels.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of broken images met so far."""
        return frozenset(self._examples.skipped)

    def read(self, rows: np.ndarray) -> Batch:
        """The examples of ``rows``, with the labels as replaced."""
        batch = self._examples.read(rows)
        labels = [self._label_of[example] for example in batch["id"].tolist()]
        return {**batch, "label": torch.tensor(labels), "truth": batch["label"]}


def with_label_noise(examples: Examples, fraction: float, *, seed: int) -> WithLabelNoise:
    """``examples`` with exactly ``round(fraction * len)`` labels replaced by *another* class.

    The other class is uniform among those that are not the true one, so that a fraction of 0.1
    means 10 % wrong labels and not 10 % redrawn ones.
    """
    labels = noisy_labels(examples.labels, len(examples.class_names), fraction, seed=seed)
    return WithLabelNoise(examples, labels)


def noisy_labels(
    labels: Int64[np.ndarray, " rows"], classes: int, fraction: float, *, seed: int
) -> Int64[np.ndarray, " rows"]:
    """``labels`` with some of them wrong, as `with_label_noise` says.

    Raises ``DataError`` where there is no other class.
    """
    if classes < 2:
        raise DataError(
            f"--data.label-noise {fraction:g} gives labels another class, and there is {classes} "
            "in the data; leave it out, or choose another column with --data.label"
        )
    random = np.random.default_rng(seed)
    noisy = labels.copy()
    wrong = random.permutation(len(noisy))[: round(fraction * len(noisy))]
    noisy[wrong] = (noisy[wrong] + random.integers(1, classes, size=len(wrong))) % classes
    return noisy
