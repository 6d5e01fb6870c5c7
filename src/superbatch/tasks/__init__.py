"""Tasks: what a model's output is worth, per example and per batch."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from superbatch.tasks.classification import Classification
from superbatch.types import Batch


@runtime_checkable
class Task(Protocol):
    """The two losses of a kind of learning (paper, section 3.4)."""

    def act_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        """One loss per example, fp32, to score with."""
        ...

    def learn_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """The loss that an update descends, fp32."""
        ...


__all__ = ["Classification", "Task"]
