"""Measures: what is asked of a model about each example. Its loss, where nothing else is said."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from superbatch.tasks import Task
from superbatch.types import Batch


@dataclass(frozen=True)
class Measure:
    """``of(task, model, batch)`` gives one number per example, fp32.

    It costs ``forwards`` forward passes of the model for each example.
    """

    name: str
    of: Callable[[Task, nn.Module, Batch], Float[Tensor, " n"]]
    forwards: int = 1


def act_loss(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """The task's act loss."""
    return task.act_loss(model, batch)


loss = Measure("loss", act_loss)
