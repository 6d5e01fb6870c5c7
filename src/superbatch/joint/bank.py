"""The memory bank whose sub-batches are chosen together."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.bank import Draw
from superbatch.joint.draw import First, joint_indices
from superbatch.joint.factors import factors_of, without_factors
from superbatch.tasks.contrastive import Loss
from superbatch.types import Batch, Role, take


class JointBank:
    """A memory bank of one super-batch, whose sub-batch is chosen together.

    The face is that of ``MemoryBank``. A super-batch, which must have come through
    ``with_factors``, gives one sub-batch and is then forgotten, with its embeddings: they are only
    comparable while fresh. Between turns of the loop the generator is therefore all its state.
    """

    def __init__(
        self,
        weights: Mapping[Role, float],
        *,
        loss: Loss,
        chunks: int,
        first: First = "softmax",
        temperature: float = 1.0,
        generator: Generator,
    ) -> None:
        self.weights = weights
        self.loss = loss
        self.chunks = chunks
        self.first = first
        self.temperature = temperature
        self.generator = generator
        self._forget()

    def __len__(self) -> int:
        return len(self._scores)

    def expire(self, step: int) -> None:
        """Nothing is ever too old: what was held is forgotten with each draw."""

    def renew(self, step: int) -> int:
        """Nothing is scored again."""
        return 0

    def wants(self, count: int) -> bool:
        """Whether a super-batch must arrive before ``count`` are drawn: after each draw."""
        return len(self) == 0

    def accepts(self) -> bool:
        """Only what it wants."""
        return len(self) == 0

    def add(self, examples: Batch, scores: Float[Tensor, " n"], weights_step: int = 0) -> None:
        """Take in a super-batch in place of what was held; ``scores`` are of each pair alone."""
        self._examples, self._scores, self._weights_step = examples, scores.float(), weights_step

    def sample(self, count: int) -> Draw:
        """Draw ``count`` pairs, without their factors; errors are those of ``joint_indices``.

        A super-batch that unreadable images have left with ``count`` pairs is given whole, however
        many chunks there are: nothing is left to choose.
        """
        index = joint_indices(
            factors_of(self._examples),
            self.weights,
            count,
            loss=self.loss,
            chunks=1 if count == len(self) else self.chunks,
            first=self.first,
            temperature=self.temperature,
            generator=self.generator,
        )
        age = torch.full((count,), self._weights_step, dtype=torch.int64)
        draw = Draw(take(without_factors(self._examples), index), index, self._scores, age)
        self._forget()
        return draw

    def _forget(self) -> None:
        self.add({}, torch.empty(0))

    def state_dict(self) -> dict[str, object]:
        """The state of the generator; a super-batch that waits to be drawn from is not kept."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Draw on as the bank that wrote ``state``; nothing is ``read``."""
        self.generator.set_state(state["generator"].cpu())
