"""Lenses: what a model says of the user's super-batch, through a task or a plain function."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from superbatch.errors import ConfigError, DataError
from superbatch.measures import Measure, loss
from superbatch.passes import scoring, traceless
from superbatch.selector.pytree import device_of, rows, split_rows
from superbatch.selector.reading import Read, whole_numbers
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
        """What looks, in words for messages."""
        ...

    def seen(self, batch: Any) -> Any:
        """``batch`` as every scoring model sees it."""
        ...

    def ids(self, seen: Any) -> Int64[Tensor, " n"] | None:
        """The ids in what is seen that cannot be found in the batch by name; none for none."""
        ...

    def measured(
        self, model: nn.Module, seen: Any, ids: Int64[Tensor, " n"], how: Precision
    ) -> Float[Tensor, " n"]:
        """One number per row, without a trace on the model or the global random state."""
        ...

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None, how: Precision
    ) -> Float[Tensor, ""]:
        """What an update on the kept rows descends."""
        ...

    def constrain(self, model: nn.Module) -> None:
        """Bring back within its bounds what an update has moved out of them."""
        ...

    def first_look(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """Refuse what a few rows show to be wrong; else how many classes the model tells apart."""
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

    def seen(self, batch: Any) -> Any:
        """See `Lens.seen`."""
        return dict(self.read(batch))

    def ids(self, seen: Any) -> Int64[Tensor, " n"] | None:
        """See `Lens.ids`."""
        return whole_numbers(seen.get("id"))

    def measured(
        self, model: nn.Module, seen: Any, ids: Int64[Tensor, " n"], how: Precision
    ) -> Float[Tensor, " n"]:
        """See `Lens.measured`."""
        of = partial(self.measure.of, self.task)
        run = traceless(model, of, micro_batch_size=how.micro_batch_size, bf16=how.bf16)
        return run({**seen, "id": ids.to(device_of(seen))})

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None, how: Precision
    ) -> Float[Tensor, ""]:
        """The task's learn loss; it weighs each row by field "weight", where there is one."""
        fields = self.seen(batch)
        if weights is not None:
            fields["weight"] = weights.to(device_of(fields))
        with how(fields):
            return self.task.learn_loss(model, fields)

    def constrain(self, model: nn.Module) -> None:
        """See `Lens.constrain`: the task's bounds."""
        self.task.constrain(model)

    def first_look(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """See `Lens.first_look`: the width of the task's logits, where it has any."""
        self.measure.require(self.task, model)
        logits = getattr(self.task, "logits", None)
        if logits is None:
            return None
        with scoring(model), how(seen):
            return int(logits(model, seen).shape[-1])


@dataclass(frozen=True)
class FunctionLens:
    """Through a function of the user's, which sees the batch as it is."""

    function: LossFunction

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def seen(self, batch: Any) -> Any:
        """See `Lens.seen`."""
        return batch

    def ids(self, seen: Any) -> Int64[Tensor, " n"] | None:
        """None: what the function makes of the batch is its own."""
        return None

    def measured(
        self, model: nn.Module, seen: Any, ids: Int64[Tensor, " n"], how: Precision
    ) -> Float[Tensor, " n"]:
        """See `Lens.measured`. The function is called for each part by itself."""
        found = []
        with scoring(model):
            for part in split_rows(seen, how.micro_batch_size):
                with how(part):
                    found.append(self._losses(model, part))
        return torch.cat(found)

    def learn_loss(
        self, model: nn.Module, batch: Any, weights: Float[Tensor, " b"] | None, how: Precision
    ) -> Float[Tensor, ""]:
        """The mean loss of the rows, each with its weight."""
        with how(batch):
            losses = self._losses(model, batch)
        return losses.mean() if weights is None else (losses * weights.to(losses.device)).mean()

    def constrain(self, model: nn.Module) -> None:
        """Nothing: a function knows no bounds."""

    def first_look(self, model: nn.Module, seen: Any, how: Precision) -> int | None:
        """See `Lens.first_look`: what the function itself can tell, as those of `per_example`."""
        look = getattr(self.function, "first_look", None)
        if look is None:
            return None
        with scoring(model), how(seen):
            found: int | None = look(model, seen)
        return found

    def _losses(self, model: nn.Module, batch: Any) -> Float[Tensor, " n"]:
        losses, count = self.function(model, batch), rows(batch)
        if isinstance(losses, Tensor) and losses.shape == (count,) and losses.is_floating_point():
            return losses.float()
        if isinstance(losses, Tensor) and losses.ndim == 0:
            raise DataError(
                f"{self.name} gave a single number for {count} rows, a mean or a sum, and choosing "
                "needs the loss of each; use reduction='none', or superbatch.per_example(loss)"
            )
        found = type(losses).__name__
        if isinstance(losses, Tensor):
            found = f"{losses.dtype} of shape {tuple(losses.shape)}"
        raise DataError(
            f"{self.name} must give one loss for each of {count} rows, a tensor of floats of shape "
            f"({count},); it gave {found}"
        )


def lens_of(task: Task | LossFunction, measure: Measure, read: Read) -> Lens:
    """Through ``task``. ``ConfigError`` for a function where the criterion asks for more."""
    if isinstance(task, type):
        raise ConfigError(f"task is the class {task.__name__}; make one of it: {task.__name__}()")
    if isinstance(task, Task):
        return TaskLens(task, measure, read)
    if isinstance(task, nn.Module):
        raise ConfigError(
            f"task is the module {type(task).__name__}, which sees outputs and targets; give "
            "superbatch.per_example(loss), or a Task such as superbatch.tasks.Classification()"
        )
    if measure != loss:
        raise ConfigError(
            f"this criterion asks for the {measure.name} of each row, which needs a Task such as "
            "superbatch.tasks.Classification(); a function only gives losses"
        )
    return FunctionLens(task)
