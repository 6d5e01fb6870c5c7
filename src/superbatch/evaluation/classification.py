"""Classification: top-1, top-5, each class by itself, and the worst of them.

Selection can buy a better average with a worse class (``paper-map``, pitfalls), so the worst class
is always looked at.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from superbatch.errors import DataError
from superbatch.passes import InParts, autocast, rows_at_once, scoring
from superbatch.tasks import Classification
from superbatch.types import Batch, to_device


@dataclass(frozen=True)
class ClassificationResult:
    """Shares are in [0, 1]; a class without an example has ``None``."""

    top1: float
    top5: float
    loss: float
    per_class: tuple[float | None, ...]
    examples: int
    matthews: float | None = None
    """Matthews correlation of two classes, in [-1, 1]; 0 where one was never seen or never said."""

    @property
    def worst_class(self) -> float:
        """The lowest accuracy of a class that has examples."""
        return min(share for share in self.per_class if share is not None)

    def metrics(self) -> dict[str, float | int]:
        """The numbers of a row in ``metrics.jsonl``."""
        return {
            "val/accuracy": self.top1,
            "val/top5": self.top5,
            "val/loss": self.loss,
            "val/worst_class_accuracy": self.worst_class,
            **({} if self.matthews is None else {"val/matthews": self.matthews}),
        }


def evaluate_classification(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    classes: int,
    task: Classification | None = None,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> ClassificationResult:
    """Accuracy of ``model`` over all ``batches``, without a trace on it. Plain cross-entropy.

    ``task`` says what the model is shown; none: images.
    """
    logits_of = (task or Classification()).logits
    in_parts = InParts(model, rows_at_once(0, model))
    right = torch.zeros(classes, dtype=torch.int64)
    seen = torch.zeros(classes, dtype=torch.int64)
    in_top5, loss = 0, 0.0
    for batch in batches:
        batch = to_device(batch, device)
        with scoring(in_parts), autocast(batch, bf16):
            logits = logits_of(in_parts, batch)
        label = batch["label"]
        best = logits.topk(min(5, classes), dim=1).indices
        loss += float(torch.nn.functional.cross_entropy(logits, label, reduction="sum"))
        in_top5 += int((best == label[:, None]).sum())
        hit = best[:, 0] == label
        seen += torch.bincount(label.cpu(), minlength=classes)
        right += torch.bincount(label[hit].cpu(), minlength=classes)
    examples = int(seen.sum())
    if examples == 0:
        raise DataError("there is not one example to evaluate on")
    return ClassificationResult(
        top1=int(right.sum()) / examples,
        top5=in_top5 / examples,
        loss=loss / examples,
        per_class=_shares(right, seen),
        examples=examples,
        matthews=_matthews(right, seen) if classes == 2 else None,
    )


def _matthews(right: Int[Tensor, " 2"], seen: Int[Tensor, " 2"]) -> float:
    """The correlation of what is and what was said, of two classes (Matthews, 1975)."""
    (right_0, right_1), (are_0, are_1) = right.tolist(), seen.tolist()
    wrong_1, wrong_0 = are_0 - right_0, are_1 - right_1
    spread = math.sqrt((right_1 + wrong_1) * are_1 * are_0 * (right_0 + wrong_0))
    return (right_1 * right_0 - wrong_1 * wrong_0) / spread if spread else 0.0


def _shares(right: Int[Tensor, " C"], seen: Int[Tensor, " C"]) -> tuple[float | None, ...]:
    pairs = zip(right.tolist(), seen.tolist(), strict=True)
    return tuple(hits / count if count else None for hits, count in pairs)
