"""Tasks: what a model's output is worth, per example and per batch."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from superbatch.tasks.classification import Classification
from superbatch.tasks.contrastive import Contrastive
from superbatch.types import Batch


@runtime_checkable
class Task(Protocol):
    """The two losses of a kind of learning (paper, section 3.4)."""

    @property
    def coupled(self) -> bool:
        """Whether an example's learn loss depends on the others in its batch.

        If so the loss of a batch is not the mean of the losses of its parts.
        """
        ...

    def act_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        """One loss per example, fp32, to score with."""
        ...

    def learn_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """The loss that an update descends, fp32."""
        ...

    def constrain(self, model: nn.Module) -> None:
        """Bring back within its bounds, in place, whatever an update has moved out of them."""
        ...


__all__ = ["Classification", "Contrastive", "Task"]
