"""Per-example losses: from the losses that people have to one number for each row."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from superbatch.errors import ConfigError, DataError
from superbatch.selector.reading import USUAL_NAMES, by_name
from superbatch.selector.schedule import check_known
from superbatch.tasks.classification import whole


SoftTargets = Literal["mixture", "largest"]
"""What is scored where a label is a mixture of classes: its loss as it is, or its largest class."""

ReadPair = Callable[[Any], tuple[Any, Any]]
"""From a batch to what the model is given and what its answer is held against."""

_BY_CLASS = (
    "cross_entropy",
    "CrossEntropyLoss",
    "LabelSmoothingCrossEntropy",
    "SoftTargetCrossEntropy",
)
_BINARY = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BinaryCrossEntropy",
)
_NOT_BY_ROW = ("JsdCrossEntropy",)


@dataclass(frozen=True)
class PerExample:
    """``(model, batch) -> Float[n]``. Make one with `per_example`."""

    name: str
    losses: Callable[[Any, Any], Any]
    read: ReadPair
    soft_targets: SoftTargets | None
    ignored: int | None
    """The label of tokens that count for nothing."""

    @property
    def __name__(self) -> str:
        """The loss's, for messages."""
        return self.name

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """The loss of each row of ``batch``; over its other axes, the mean."""
        outputs, targets = self._answer(model, batch)
        if self.name in _BY_CLASS and isinstance(targets, Tensor):
            targets = self._scored(targets) if is_soft(targets) else whole(targets)
        return self._by_row(self.losses(outputs, targets), targets)

    def first_look(self, model: nn.Module, batch: Any) -> int | None:
        """Refuse mixed labels where nobody said what to score; how many outputs the model has."""
        outputs, targets = self._answer(model, batch)
        if self.name in (*_BY_CLASS, *_BINARY):
            refuse_others(self.name, {"the model's answer": outputs, "the labels": targets})
        if self.name in _BINARY and is_soft(targets) and ((targets != 0) & (targets != 1)).any():
            self._scored(targets)
        return outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim > 1 else None

    def _scored(self, targets: Tensor) -> Tensor:
        if self.soft_targets is None:
            raise DataError(
                f"the labels are shares of classes, of shape {tuple(targets.shape)}, as after "
                "mixup, and a mixture has no loss of one example; select before mixing, or say "
                f"what to score: per_example({self.name}, soft_targets='mixture'), or 'largest' "
                "for the class with the largest share"
            )
        return targets if self.soft_targets == "mixture" else targets.argmax(dim=1)

    def _answer(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        inputs, targets = self.read(batch)
        if isinstance(inputs, Mapping):
            outputs = model(**inputs)
        elif isinstance(inputs, tuple | list):
            outputs = model(*inputs)
        else:
            outputs = model(inputs)
        return getattr(outputs, "logits", outputs), targets

    def _by_row(self, losses: Any, targets: Any) -> Any:
        if not isinstance(losses, Tensor) or losses.ndim < 2:
            return losses
        if self.ignored is None or is_soft(targets):
            return losses.float().flatten(1).mean(dim=1)
        count = (targets != self.ignored).flatten(1).sum(dim=1)
        return losses.float().flatten(1).sum(dim=1) / count.clamp(min=1)


def per_example(
    loss: Callable[..., Any],
    *,
    read: ReadPair | None = None,
    soft_targets: SoftTargets | None = None,
) -> PerExample:
    """The loss of each row, by ``loss(outputs, targets)``, whose own reduction is undone.

    Knows torch's loss modules and functions, all that take a ``reduction``, and timm's; any other
    must give one loss per row itself. A row's own axes (tokens, labels) are averaged, those that
    cross-entropy ignores left out. ``read`` gives what the model is shown (a tensor, a tuple of
    arguments or a mapping of them) and the targets; without it a pair is taken as these, and a
    mapping or dataclass by usual names.

    Labels that are mixtures of classes are refused unless ``soft_targets`` says what to score.
    Raises ``ConfigError`` for a loss that has no rows.
    """
    name = _name(loss)
    if name in _NOT_BY_ROW:
        raise ConfigError(f"{name} compares rows with each other and has no loss of one example")
    if soft_targets is not None:
        check_known("soft_targets", soft_targets, SoftTargets)
    if soft_targets == "largest" and name in _BINARY:
        raise ConfigError(
            f"{name} asks for each class by itself, so a mixture has no largest class; give "
            "soft_targets='mixture'"
        )
    return PerExample(name, _unreduced(loss), read or usual_pair, soft_targets, _ignored(loss))


def usual_pair(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets: a pair as it is, a mapping or dataclass by usual names."""
    fields = by_name(batch)
    if fields is None:
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        raise DataError(
            "per_example takes (inputs, targets) from a pair and this batch is "
            f"{type(batch).__name__}{f' of {len(batch)}' if hasattr(batch, '__len__') else ''}; "
            "say which is which: per_example(loss, read=lambda batch: (batch[0], batch[1]))"
        )
    found = [
        next((fields[name] for name in (ours, *USUAL_NAMES[ours]) if name in fields), None)
        for ours in ("image", "label")
    ]
    if found[0] is None or found[1] is None:
        raise DataError(
            f"per_example finds no inputs and targets in a batch with {', '.join(fields)}; say "
            "which they are: per_example(loss, read=lambda batch: (batch['a'], batch['b']))"
        )
    return found[0], found[1]


def refuse_others(name: str, given: Mapping[str, Any]) -> None:
    """Raise ``DataError`` where a loss of torch's called ``name`` is given what is no tensor."""
    for what, value in given.items():
        if not isinstance(value, Tensor):
            raise DataError(
                f"{name} takes tensors and {what} is a {type(value).__name__}; give a module that "
                "returns its logits alone, labels as a tensor, or say what is what: "
                "per_example(loss, read=lambda batch: (inputs, targets))"
            )


def is_soft(targets: Any) -> bool:
    """Whether labels are shares of classes rather than their numbers."""
    return isinstance(targets, Tensor) and targets.ndim > 1 and targets.is_floating_point()


def _name(loss: Callable[..., Any]) -> str:
    inner = loss.func if isinstance(loss, partial) else loss
    return getattr(inner, "__name__", type(inner).__name__)


def _unreduced(loss: Callable[..., Any]) -> Callable[[Any, Any], Tensor]:
    """``loss`` without its reduction."""
    if type(loss).__name__ == "LabelSmoothingCrossEntropy":
        return _cross_entropy(getattr(loss, "smoothing", 0.0))
    if type(loss).__name__ == "SoftTargetCrossEntropy":
        return _cross_entropy(0.0)
    if isinstance(loss, nn.Module):
        return _unreduced_module(loss)
    try:
        reduces = "reduction" in inspect.signature(loss).parameters
    except ValueError:  # written in C
        reduces = False
    return partial(loss, reduction="none") if reduces else loss


def _unreduced_module(loss: nn.Module) -> Callable[[Any, Any], Tensor]:
    if not hasattr(loss, "reduction"):
        return loss
    own = copy.copy(loss)  # its buffers are shared, so that they move with the user's
    own.reduction = "none"  # type: ignore[assignment]
    if getattr(loss, "sum_classes", False):  # of timm's BinaryCrossEntropy: a sum, then a mean
        own.sum_classes = False  # type: ignore[assignment]
        return lambda outputs, targets: own(outputs, targets).flatten(1).sum(dim=1)
    return own


def _cross_entropy(smoothing: float) -> Callable[[Any, Any], Tensor]:
    return partial(functional.cross_entropy, reduction="none", label_smoothing=smoothing)


def _ignored(loss: Callable[..., Any]) -> int | None:
    """The label that ``loss`` ignores; none for losses without one."""
    if isinstance(loss, partial) and "ignore_index" in loss.keywords:
        return int(loss.keywords["ignore_index"])
    by_default = -100 if _name(loss) in ("cross_entropy", "nll_loss") else None
    found: int | None = getattr(loss, "ignore_index", by_default)
    return found
