"""Lenses: what a model says of the user's super-batch, through a task or a plain function."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from superbatch.errors import ConfigError, DataError
from superbatch.learner import scoring, traceless
from superbatch.measures import Measure, loss
from superbatch.selector.pytree import device_of, rows, split_rows
from superbatch.selector.reading import Read
from superbatch.tasks import Task


LossFunction = Callable[[nn.Module, Any], Any]
"""From a model and a batch of the user's to one loss per row, Float[n]."""


@dataclass(frozen=True)
class Precision:
    """How models run: ``micro_batch_size`` rows at a time, if not 0, and in bf16 or as they are."""

    micro_batch_size: int = 0
    bf16: bool = False

    def __call__(self, batch: Any) -> AbstractContextManager[None]:
        """Within: this precision, whatever holds around."""
        device = device_of(batch) or torch.device("cpu")
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


@runtime_checkable
class Lens(Protocol):
    """How models look at batches of the user's structure."""

    @property
    def name(self) -> str:
        """What it looks for, in words for messages."""
        ...

    def seen(self, batch: Any, ids: Int64[Tensor, " n"]) -> Any:
        """``batch`` as every scoring model sees it."""
        ...

    def measured(self, model: nn.Module, seen: Any, how: Precision) -> Float[Tensor, " n"]:
        """One number per row, without a trace on the model or the global random state."""
        ...

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None
    ) -> Float[Tensor, ""]:
        """What an update on the kept rows descends."""
        ...

    def classes(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """How many classes the model tells apart; none where there are no classes."""
        ...


@dataclass(frozen=True)
class TaskLens:
    """Through one of our tasks, which sees the fields that ``read`` finds."""

    task: Task
    measure: Measure
    read: Read

    @property
    def name(self) -> str:
        """The task's."""
        return type(self.task).__name__

    def seen(self, batch: Any, ids: Int64[Tensor, " n"]) -> Any:
        """See `Lens.seen`. Where there is no ``"id"``, ``ids`` are."""
        fields = dict(self.read(batch))
        return fields if isinstance(fields.get("id"), Tensor) else {**fields, "id": ids}

    def measured(self, model: nn.Module, seen: Any, how: Precision) -> Float[Tensor, " n"]:
        """See `Lens.measured`."""

        def of(model: nn.Module, batch: Any) -> Float[Tensor, " n"]:
            return self.measure.of(self.task, model, batch)

        return traceless(model, of, micro_batch_size=how.micro_batch_size, bf16=how.bf16)(seen)

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None
    ) -> Float[Tensor, ""]:
        """The task's learn loss, weighted where it knows of field "weight"."""
        fields = dict(self.read(batch))
        if weights is not None:
            fields["weight"] = weights
        return self.task.learn_loss(model, fields)

    def classes(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """The width of the task's logits for one row."""
        logits = getattr(self.task, "logits", None)
        if logits is None:
            return None
        row = {name: field[:1] for name, field in seen.items()}
        with scoring(model), how(row):
            return int(logits(model, row).shape[-1])


@dataclass(frozen=True)
class FunctionLens:
    """Through a function of the user's, which sees the batch as it is."""

    function: LossFunction

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def seen(self, batch: Any, ids: Int64[Tensor, " n"]) -> Any:
        """See `Lens.seen`."""
        return batch

    def measured(self, model: nn.Module, seen: Any, how: Precision) -> Float[Tensor, " n"]:
        """See `Lens.measured`. The function is called for each part by itself."""
        with scoring(model):
            found = []
            for part in split_rows(seen, how.micro_batch_size):
                with how(part):
                    found.append(self._losses(model, part))
        return torch.cat(found)

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None
    ) -> Float[Tensor, ""]:
        """The mean loss of the rows, each with its weight."""
        losses = self._losses(model, batch)
        return losses.mean() if weights is None else (losses * weights.to(losses.device)).mean()

    def classes(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """Asked of the function where it can say, as those of `per_example` can."""
        classes = getattr(self.function, "classes", None)
        if classes is None:
            return None
        with scoring(model), how(seen):
            found: int | None = classes(model, split_rows(seen, 1)[0])
        return found

    def _losses(self, model: nn.Module, batch: Any) -> Float[Tensor, " n"]:
        losses, count = self.function(model, batch), rows(batch)
        if isinstance(losses, Tensor) and losses.shape == (count,) and losses.is_floating_point():
            return losses.float()
        if isinstance(losses, Tensor) and losses.ndim == 0:
            raise DataError(
                f"{self.name} gave a single number for {count} rows, a mean or a sum; choosing "
                "needs the loss of each: use reduction='none', or superbatch.per_example(loss)"
            )
        found = type(losses).__name__
        if isinstance(losses, Tensor):
            found = f"{losses.dtype} of shape {tuple(losses.shape)}"
        raise DataError(f"{self.name} must give one loss for each of {count} rows; it gave {found}")


def lens_of(task: Task | LossFunction, measure: Measure, read: Read) -> Lens:
    """Through ``task``. ``ConfigError`` for a function where the criterion asks for more."""
    if isinstance(task, Task):
        return TaskLens(task, measure, read)
    if not callable(task):
        raise ConfigError(
            "task must be a Task, such as superbatch.tasks.Classification(), or a function "
            f"(model, batch) -> one loss per row; it is {type(task).__name__}"
        )
    if measure != loss:
        raise ConfigError(
            f"this criterion asks for the {measure.name} of each row, which needs a Task such as "
            f"superbatch.tasks.Classification(); {type(task).__name__} only gives losses"
        )
    return FunctionLens(task)
