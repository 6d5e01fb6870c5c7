"""The memory bank: scored examples that wait to be learned from (paper, algorithm 1 and A.6).

A bank of one super-batch *is* Algorithm 1: what arrives pushes everything older out, and one
sub-batch is drawn. One of several is prioritised replay with the same code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.errors import ConfigError
from superbatch.selection import importance_weights, sample_indices, sample_weighted
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

    They are of the last ``super_batches`` that arrived, however short those came out; None: of as
    many as there is room for. An example is drawn at most ``max_times_sampled`` times. Draws are
    without replacement from ``softmax(scores / temperature)`` over all that may still be drawn;
    that is also the length. With an ``importance_exponent`` over 0 what is drawn has a field
    ``"weight"``: see ``importance_weights``.
    """

    def __init__(
        self,
        capacity: int,
        *,
        generator: Generator,
        super_batches: int | None = None,
        temperature: float = 1.0,
        max_times_sampled: int = 1,
        importance_exponent: float = 0.0,
    ) -> None:
        most = capacity if super_batches is None else super_batches
        if min(capacity, most, max_times_sampled) < 1:
            raise ConfigError(
                "a memory bank needs capacity, super_batches and max_times_sampled of at least 1; "
                f"they are {capacity}, {super_batches} and {max_times_sampled}"
            )
        self.capacity = capacity
        self.super_batches = most
        self.temperature = temperature
        self.max_times_sampled = max_times_sampled
        self.importance_exponent = importance_exponent
        self.generator = generator
        self._examples: Batch = {}
        self._scores = torch.empty(0)
        self._weights_step = torch.empty(0, dtype=torch.int64)
        self._times_sampled = torch.empty(0, dtype=torch.int64)
        self._arrived_since = torch.empty(0, dtype=torch.int64)  # super-batches after its own

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
        kept = self._available()
        kept = kept[self._arrived_since[kept] + 1 < self.super_batches]
        kept = kept[max(0, len(kept) + count - self.capacity) :]
        if len(kept):
            examples = concat(take(self._examples, kept), examples)
            scores = torch.cat([self._scores[kept], scores])
        self._examples, self._scores = examples, scores.float()
        age = torch.full((count,), weights_step, dtype=torch.int64)
        self._weights_step = torch.cat([self._weights_step[kept], age])
        new = torch.zeros_like(age)
        self._times_sampled = torch.cat([self._times_sampled[kept], new])
        self._arrived_since = torch.cat([self._arrived_since[kept] + 1, new])

    def sample(self, count: int) -> Draw:
        """Draw ``count`` examples; errors are those of ``sample_indices``."""
        available = self._available()
        scores = self._scores[available]
        index, more = self._drawn(scores, count)
        rows = available[index.cpu()]
        self._times_sampled[rows] += 1
        examples = {**take(self._examples, rows), **more}
        return Draw(examples, index, scores, self._weights_step[rows])

    def _drawn(self, scores: Float[Tensor, " n"], count: int) -> tuple[Int[Tensor, " b"], Batch]:
        """Which are drawn, and the fields that say more of them."""
        how: dict[str, Any] = {"temperature": self.temperature, "generator": self.generator}
        if self.importance_exponent == 0:
            return sample_indices(scores, count, **how), {}
        index, log_inclusion = sample_weighted(scores, count, **how)
        weight = importance_weights(log_inclusion, len(scores), exponent=self.importance_exponent)
        return index, {"weight": weight}

    def _available(self) -> Int[Tensor, " n"]:
        """On the CPU, as all is that is known of the examples besides their scores."""
        return (self._times_sampled < self.max_times_sampled).nonzero().squeeze(1)

    def state_dict(self) -> dict[str, object]:
        """What is held, by its draws in the stream, and the state of the generator.

        Pixels are not kept: a draw is enough to read them again.
        """
        return {
            "draw": self._examples.get("draw", torch.empty(0, dtype=torch.int64)),
            "scores": self._scores,
            "weights_step": self._weights_step,
            "times_sampled": self._times_sampled,
            "arrived_since": self._arrived_since,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Hold what the bank that wrote ``state`` held; ``read`` gives the examples of draws."""
        self._examples = read(state["draw"]) if len(state["draw"]) else {}
        self._scores = state["scores"]
        if self._examples:  # a checkpoint is loaded elsewhere than where they are
            self._scores = self._scores.to(self._examples["draw"].device)
        self._weights_step = state["weights_step"]
        self._times_sampled = state["times_sampled"]
        self._arrived_since = state["arrived_since"]
        self.generator.set_state(state["generator"].cpu())
