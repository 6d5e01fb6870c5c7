"""Learner: any model that learns; learner, online model and online reference are three of them."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superbatch.distributed import counts, mean_over_ranks
from superbatch.errors import ConfigError, DataError
from superbatch.passes import InParts, autocast, rows_at_once, split, traceless
from superbatch.sharding import (
    as_held,
    average_gradients,
    clip_gradients,
    follow_main,
    is_sharded,
    statistics,
    whole,
)
from superbatch.tasks import Task
from superbatch.types import Batch, LossSource, size


Schedule = Callable[[int], float]
"""Learning rate of update ``step`` (from 1)."""

T = TypeVar("T")

ThroughModel = Callable[[nn.Module], nn.Module]
"""A model as it is seen through something, sharing its weights."""


def warmup_cosine(*, peak: float, warmup: int, steps: int, final_ratio: float = 0.0) -> Schedule:
    """Linear from 0 to ``peak`` over ``warmup`` updates, then a cosine down to the ratio of it.

    The last update is at that ratio: at 0 its rate is 0 and it changes no weight, so that of
    ``steps`` updates one less counts, and of a single one none.
    """

    def rate(step: int) -> float:
        if step <= warmup:
            return peak * step / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return peak * (final_ratio + (1 - final_ratio) * cosine)

    return rate


@dataclass(frozen=True)
class Optimisation:
    """How a learner descends. AdamW; weight decay spares biases, gains and position embeddings."""

    schedule: Schedule
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    """Gradient norm above which gradients are scaled down; 0: never."""
    micro_batch_size: int = 0
    """Examples in one forward pass; 0: all at once. Gradients are those of the whole batch either
    way: summed over parts, or, where the task is coupled, of all parts together (``InParts``)."""
    bf16: bool = False
    ema_decay: float = 0.0
    """Weight of the past in an average of the weights that is evaluated instead; 0: none."""
    compiled: bool = False


class Learner:
    """A model with its task and optimiser. ``step`` learns; ``losses`` scores, leaving no trace.

    On several ranks each has a learner with the same weights, or with its shard of them, and all
    call ``step`` together, each with its own part of one batch: the update is that of the batch.

    ``through`` is how the model is seen when it learns, if not as it is: at two resolutions, say.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimisation: Optimisation,
        *,
        through: ThroughModel | None = None,
    ) -> None:
        if not 0 <= optimisation.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1); it is {optimisation.ema_decay}")
        self.model = model
        self.task = task
        self.optimisation = optimisation
        self.steps = 0
        self.examples = 0
        """How many examples the last update learned from, on all ranks."""
        self.recomputes = False
        """Whether the last update ran its forward pass twice, to save memory."""
        self._together = is_sharded(model)
        self._statistics = statistics(model)
        self._run = self._compiled(model)
        self._learned = InParts(
            self._seen(through), optimisation.micro_batch_size if task.coupled else 0
        )
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, optimisation.weight_decay),
            lr=optimisation.schedule(1),
            betas=optimisation.betas,
            fused=True,
        )
        self.losses: LossSource = self.scored(task.act_loss)
        self._average = (
            {name: p.detach().clone() for name, p in model.state_dict().items()}
            if optimisation.ema_decay
            else None
        )

    def scored(
        self,
        function: Callable[[nn.Module, Batch], T],
        through: ThroughModel | None = None,
    ) -> Callable[[Batch], T]:
        """``function`` of the model, seen ``through`` a view of it, on a batch, without a trace."""
        return traceless(
            self._seen(through),
            function,
            micro_batch_size=rows_at_once(self.optimisation.micro_batch_size, self.model),
            bf16=self.optimisation.bf16,
        )

    def step(self, batch: Batch) -> Float[Tensor, ""]:
        """One update on the mean learn loss of ``batch``, which is returned, detached.

        On several ranks that is the batch of all of them; for all.
        """
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimisation.schedule(self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        average_gradients(self.model)
        if self.optimisation.clip_norm > 0:
            clip_gradients(list(self.model.parameters()), self.optimisation.clip_norm)
        self.optimizer.step()
        self.task.constrain(self.model)
        follow_main(self._statistics)
        self._follow()
        return loss

    def _backward(self, batch: Batch) -> Float[Tensor, ""]:
        """Add the gradient of the learn loss of ``batch``; the loss, detached."""
        part_size = self.optimisation.micro_batch_size
        of_ranks = counts(size(batch))
        self.examples = sum(of_ranks)
        if self.examples == 0:
            raise DataError("there is not one example to learn from: all of a batch are broken")
        self.recomputes = self.task.coupled and 0 < part_size < max(of_ranks)
        together = of_ranks if self._together else None
        losses = []
        for part in [batch] if self.task.coupled else split(batch, part_size, together):
            # Ranks' gradients are averaged: each rank's share of the whole is so many times as big.
            share = len(of_ranks) * size(part) / self.examples
            with autocast(part, self.optimisation.bf16):
                loss = self.task.learn_loss(self._learned, part) * share
            loss.backward()  # type: ignore[no-untyped-call]
            # A rank may have no example to learn from: the mean of none is NaN, and no part of all.
            losses.append(loss.detach() if size(part) else torch.zeros_like(loss))
        return mean_over_ranks(torch.stack(losses).sum())

    def _seen(self, through: ThroughModel | None) -> nn.Module:
        view = self.model if through is None else through(self.model)
        return self._run if view is self.model else self._compiled(view)

    def _compiled(self, model: nn.Module) -> nn.Module:
        return torch.compile(model) if self.optimisation.compiled else model  # type: ignore[return-value]

    def _follow(self) -> None:
        """Move the average of the weights a little towards them."""
        if self._average is None:
            return
        # Early on a constant decay would remember the random start: let the average warm up.
        decay = min(self.optimisation.ema_decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def numbers(self) -> Mapping[str, Tensor]:
        """All that updates change, besides ``steps``, by name; writing into them changes it all.

        Of a learner in shards it is this rank's part.
        """
        of_model = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        of_average = {f"average/{name}": value for name, value in (self._average or {}).items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        of_optimizer = {
            f"optimizer/{place}/{name}": value
            for place, parameter in enumerate(parameters)
            for name, value in self._moments(parameter).items()
        }
        return of_model | of_average | of_optimizer

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What AdamW keeps of ``parameter``; as before its first update where there was none."""
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state

    def evaluated_weights(self) -> Mapping[str, Tensor]:
        """The weights that count at the end: their average where one is kept. See `whole`."""
        kept = self.model.state_dict() if self._average is None else self._average
        weights: Mapping[str, Tensor] = whole(kept)
        return weights

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model with the weights that count; its own come back after."""
        if self._average is None:
            yield self._run
            return
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._average)
        try:
            yield self._run
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, average and the number of updates; for all, numbers on rank 0.

        It is the same however many ranks there are, and whether they hold shards.
        """
        state: dict[str, Any] = whole(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self._average,
                "steps": self.steps,
            }
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the learner that wrote ``state`` stood, whole on every rank."""
        held = self.model.state_dict()
        model = {name: as_held(value, held[name]) for name, value in state["model"].items()}
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(self._held(state["optimizer"]))
        self.steps = state["steps"]
        if self._average is not None:
            for name, value in state["average"].items():
                self._average[name].copy_(as_held(value, self._average[name]))

    def _held(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The whole state of an optimiser as this rank holds it: by parameter, in their order."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        of_parameters = {
            place: {
                name: as_held(value, parameters[place])
                if isinstance(value, Tensor) and value.shape == parameters[place].shape
                else value
                for name, value in values.items()
            }
            for place, values in state["state"].items()
        }
        return {**state, "state": of_parameters}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors, numbers and what the model or a part of it exempts do not.

    Single numbers are a group of their own: they are whole where all else is in shards, and an
    optimiser cannot take both at once.
    """
    exempt = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and name not in exempt]
    spared = [p for name, p in named if p.ndim and (p.ndim < 2 or name in exempt)]
    numbers = [p for _, p in named if p.ndim == 0]
    groups = [(decayed, weight_decay), (spared, 0.0), (numbers, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
