"""What every bank is to the loop, and what it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from superbatch.types import Batch


@dataclass(frozen=True)
class Draw:
    """What the bank gave, and what it chose from.

    ``index`` says where the examples lay among the ``scores`` of all that could be drawn.
    """

    examples: Batch
    index: Int[Tensor, " b"]
    scores: Float[Tensor, " n"]
    weights_step: Int[Tensor, " b"]


@runtime_checkable
class Bank(Protocol):
    """Takes in scored super-batches and gives sub-batches.

    A turn of the loop adds as long as the bank ``wants`` more and draws once. Which update that is
    for the bank is told by ``expire``, before it is asked what it wants, and by ``renew``.
    """

    def __len__(self) -> int:
        """How many examples may be drawn."""
        ...

    def expire(self, step: int) -> None:
        """What is too old to be learned from in update ``step`` leaves."""
        ...

    def renew(self, step: int) -> int:
        """What is too old for update ``step`` and did not leave is scored again: how many."""
        ...

    def wants(self, count: int) -> bool:
        """Whether a super-batch must arrive before ``count`` examples are drawn."""
        ...

    def accepts(self) -> bool:
        """Whether one more may arrive, if it is there already."""
        ...

    def add(self, examples: Batch, scores: Float[Tensor, " n"], weights_step: int = 0) -> None:
        """Take in scored examples, made with the weights of step ``weights_step``."""
        ...

    def sample(self, count: int) -> Draw:
        """Draw ``count`` examples."""
        ...

    def state_dict(self) -> dict[str, object]:
        """What is held, without pixels."""
        ...

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Hold what the bank that wrote ``state`` held; ``read`` gives the examples of draws."""
        ...
