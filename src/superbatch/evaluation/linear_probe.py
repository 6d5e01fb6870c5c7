"""Linear probe: how well frozen image embeddings separate classes, by logistic regression.

The features are the image tower's embeddings before they are brought to length 1, each dimension
standardised by its mean and deviation over the examples that the probe is fit on: so the strength
of the regularisation means the same for every model, and the fit ends. The problem is convex and
solved without randomness; what a seed decides is which examples it is fit on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import nn

from superbatch.errors import ConfigError, DataError
from superbatch.evaluation.embeddings import image_embeddings
from superbatch.types import Batch


@dataclass(frozen=True)
class LinearProbeResult:
    """``top1`` is a share in [0, 1] of the ``examples``; ``fit`` is how many it was fit on."""

    top1: float
    examples: int
    fit: int

    def metrics(self) -> dict[str, float | int]:
        """The numbers of a row in ``metrics.jsonl``."""
        return {"val/linear_probe_top1": self.top1}


def evaluate_linear_probe(
    model: nn.Module,
    fit: Iterable[Batch],
    evaluation: Iterable[Batch],
    *,
    inverse_regularisation: float = 1.0,
    iterations: int = 1000,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> LinearProbeResult:
    """Fit on the batches of ``fit``, accuracy on those of ``evaluation``; both have labels.

    ``inverse_regularisation`` is scikit-learn's ``C``. Holds all embeddings in memory. No trace is
    left on ``model``. Raises ``DataError`` where a part is empty, where ``fit`` has one class only
    and where embeddings are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if inverse_regularisation <= 0:
        raise ConfigError(f"inverse_regularisation is {inverse_regularisation}; it must be over 0")
    features, labels = image_features(model, fit, device=device, bf16=bf16)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"all {len(labels)} examples that a linear probe would be fit on are of one class; "
            "it needs two or more"
        )
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=inverse_regularisation, max_iter=iterations)
    )
    probe.fit(features, labels)
    seen, truth = image_features(model, evaluation, device=device, bf16=bf16)
    return LinearProbeResult(
        top1=float(np.mean(probe.predict(seen) == truth)), examples=len(truth), fit=len(labels)
    )


def image_features(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> tuple[Float32[np.ndarray, "n d"], Int64[np.ndarray, " n"]]:
    """The image embeddings of ``batches``, of any length, and the labels."""
    parts, labels = [], []
    for batch in batches:
        parts.append(image_embeddings(model, batch["image"], device=device, bf16=bf16).cpu())
        labels.append(batch["label"].cpu())
    if not sum(map(len, labels)):
        raise DataError("a linear probe has not one example to be fit on, or evaluated on")
    features = torch.cat(parts).numpy()
    if not np.isfinite(features).all():
        raise DataError("embeddings are not finite: the model has diverged")
    return features, torch.cat(labels).numpy()
