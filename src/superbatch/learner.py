"""Learner: any model that learns. The learner, the online model and an online reference are three.

Scoring with one leaves no trace: every module's mode and the global random state are put back.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from superbatch.errors import ConfigError
from superbatch.tasks import Task
from superbatch.types import Batch, LossSource, size, take


Schedule = Callable[[int], float]
"""Learning rate of update ``step`` (from 1)."""


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Within: eval mode, no gradients. After: every module's mode and random state as before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def loss_source(
    model: nn.Module, task: Task, *, micro_batch_size: int = 0, bf16: bool = False
) -> LossSource:
    """The act losses of ``model``, without a trace, fp32; in parts if ``micro_batch_size`` > 0."""

    def losses(batch: Batch) -> Float[Tensor, " n"]:
        with scoring(model), autocast(batch, bf16):
            parts = [task.act_loss(model, part).float() for part in split(batch, micro_batch_size)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return losses


def split(batch: Batch, part_size: int) -> list[Batch]:
    """``batch`` in parts of at most ``part_size``, in order; whole if that is 0."""
    if part_size <= 0 or part_size >= size(batch):
        return [batch]
    rows = torch.arange(size(batch), device=next(iter(batch.values())).device)
    return [take(batch, part) for part in torch.split(rows, part_size)]


def autocast(batch: Batch, bf16: bool) -> torch.autocast:
    """bf16 towers where asked for, on the device of the batch."""
    return torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16, enabled=bf16)


def warmup_cosine(*, peak: float, warmup: int, steps: int, final_ratio: float = 0.0) -> Schedule:
    """Linear from 0 to ``peak`` over ``warmup`` updates, then a cosine down to the ratio of it."""

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
    """Examples in one forward and backward pass, gradients summed over them; 0: all at once."""
    bf16: bool = False
    ema_decay: float = 0.0
    """Weight of the past in an average of the weights that is evaluated instead; 0: none."""
    compiled: bool = False


class Learner:
    """A model with its task and optimiser. ``step`` learns; ``losses`` scores, leaving no trace."""

    def __init__(self, model: nn.Module, task: Task, optimisation: Optimisation) -> None:
        if not 0 <= optimisation.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1); it is {optimisation.ema_decay}")
        self.model = model
        self.task = task
        self.optimisation = optimisation
        self.steps = 0
        self._run: nn.Module = torch.compile(model) if optimisation.compiled else model  # type: ignore[assignment]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, optimisation.weight_decay),
            lr=optimisation.schedule(1),
            betas=optimisation.betas,
            fused=True,
        )
        self.losses: LossSource = loss_source(
            self._run,
            task,
            micro_batch_size=optimisation.micro_batch_size,
            bf16=optimisation.bf16,
        )
        self._average = (
            {name: p.detach().clone() for name, p in model.state_dict().items()}
            if optimisation.ema_decay
            else None
        )

    def step(self, batch: Batch) -> Float[Tensor, ""]:
        """One update on the mean learn loss of ``batch``, which is returned, detached."""
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimisation.schedule(self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in split(batch, self.optimisation.micro_batch_size):
            share = size(part) / size(batch)
            with autocast(part, self.optimisation.bf16):
                loss = self.task.learn_loss(self._run, part) * share
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if self.optimisation.clip_norm > 0:
            clip_grad_norm_(self.model.parameters(), self.optimisation.clip_norm)
        self.optimizer.step()
        self._follow()
        return torch.stack(losses).sum()

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

    def evaluated_weights(self) -> Mapping[str, Tensor]:
        """The weights that count at the end: their average where one is kept."""
        return self.model.state_dict() if self._average is None else self._average

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
        """Weights, optimiser, average and the number of updates."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average,
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the learner that wrote ``state`` stood."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        if self._average is not None:
            for name, value in state["average"].items():
                self._average[name].copy_(value)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors, scalars and what the model itself exempts do not."""
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and name not in exempt]
    spared = [p for name, p in named if p.ndim < 2 or name in exempt]
    groups = [(decayed, weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
