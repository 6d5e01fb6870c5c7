"""The memory bank: scored examples that wait to be learned from (paper, algorithm 1 and A.6).

With a capacity of one super-batch it *is* Algorithm 1: what arrives pushes everything older out,
and one sub-batch is drawn. More capacity is prioritised replay with the same code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.errors import ConfigError
from superbatch.selection import sample_indices
from superbatch.types import Batch, concat, size, take


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
    """Takes in scored super-batches and gives sub-batches."""

    def __len__(self) -> int:
        """How many examples may be drawn."""
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


class MemoryBank:
    """At most ``capacity`` scored examples; the oldest leave first.

    An example is drawn at most ``max_times_sampled`` times. Draws are without replacement from
    ``softmax(scores / temperature)`` over all that may still be drawn; that is also the length.
    """

    def __init__(
        self,
        capacity: int,
        *,
        generator: Generator,
        temperature: float = 1.0,
        max_times_sampled: int = 1,
    ) -> None:
        if capacity < 1 or max_times_sampled < 1:
            raise ConfigError(
                f"a memory bank needs capacity and max_times_sampled of at least 1; "
                f"they are {capacity} and {max_times_sampled}"
            )
        self.capacity = capacity
        self.temperature = temperature
        self.max_times_sampled = max_times_sampled
        self.generator = generator
        self._examples: Batch = {}
        self._scores = torch.empty(0)
        self._weights_step = torch.empty(0, dtype=torch.int64)
        self._times_sampled = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._available())

    def add(self, examples: Batch, scores: Float[Tensor, " n"], weights_step: int = 0) -> None:
        """Take in scored examples, made with the weights of step ``weights_step``.

        The oldest make room. More examples than the capacity are a ``ConfigError``.
        """
        count = size(examples)
        if count > self.capacity:
            raise ConfigError(
                f"{count} examples do not fit a memory bank of {self.capacity}; "
                "it must hold at least one super-batch"
            )
        kept = self._available()[max(0, len(self) + count - self.capacity) :]
        if len(kept):
            examples = concat(take(self._examples, kept), examples)
            scores = torch.cat([self._scores[kept], scores])
        self._examples, self._scores = examples, scores.float()
        age = torch.full((count,), weights_step, dtype=torch.int64)
        kept = kept.cpu()
        self._weights_step = torch.cat([self._weights_step[kept], age])
        self._times_sampled = torch.cat([self._times_sampled[kept], torch.zeros_like(age)])

    def sample(self, count: int) -> Draw:
        """Draw ``count`` examples; errors are those of ``sample_indices``."""
        available = self._available()
        scores = self._scores[available]
        index = sample_indices(
            scores, count, temperature=self.temperature, generator=self.generator
        )
        rows = available[index]
        self._times_sampled[rows.cpu()] += 1
        return Draw(take(self._examples, rows), index, scores, self._weights_step[rows.cpu()])

    def _available(self) -> Int[Tensor, " n"]:
        rows = (self._times_sampled < self.max_times_sampled).nonzero().squeeze(1)
        return rows.to(self._scores.device)

    def state_dict(self) -> dict[str, object]:
        """What is held, by its draws in the stream, and the state of the generator.

        Pixels are not kept: a draw is enough to read them again.
        """
        return {
            "draw": self._examples.get("draw", torch.empty(0, dtype=torch.int64)),
            "scores": self._scores,
            "weights_step": self._weights_step,
            "times_sampled": self._times_sampled,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Hold what the bank that wrote ``state`` held; ``read`` gives the examples of draws."""
        self._scores = state["scores"]
        self._weights_step = state["weights_step"]
        self._times_sampled = state["times_sampled"]
        self._examples = read(state["draw"]) if len(state["draw"]) else {}
        self.generator.set_state(state["generator"].cpu())
