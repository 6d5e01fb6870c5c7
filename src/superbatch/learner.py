"""Learner: any model that learns. The learner, the online model and an online reference are three.

Scoring with one leaves no trace: every module's mode and the global random state are put back.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from superbatch.distributed import counts, mean_over_ranks
from superbatch.errors import ConfigError
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
from superbatch.tasks.pixels import answer
from superbatch.types import Batch, LossSource, size, take


Schedule = Callable[[int], float]
"""Learning rate of update ``step`` (from 1)."""

ThroughModel = Callable[[nn.Module], nn.Module]
"""A model as it is seen through something, sharing its weights."""

T = TypeVar("T")


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


class InParts(nn.Module):
    """``model`` run on at most ``part_size`` rows at a time; 0: on all at once.

    Gives what ``model`` gives for all rows, a tensor or a tuple of them; outputs without axes are
    those of the first part. Images of bytes are brought to [-1, 1] part by part. With gradients on,
    each part keeps only its inputs and outputs, and is run again for its gradient with the random
    numbers that it had: the exact gradient of any loss of all rows, at the memory of one part, for
    one more forward pass (Gao et al. 2021, "GradCache"). Batch norm sees each part by itself. A
    model in shards over several ranks runs on as many parts on each of them.
    """

    takes_bytes = True

    def __init__(self, model: nn.Module, part_size: int) -> None:
        super().__init__()
        self.model = model
        self.part_size = part_size
        self._together = is_sharded(model)

    def forward(self, *inputs: Tensor) -> Any:
        """The model's output for ``inputs``, which share their leading axis."""
        rows = len(inputs[0])
        of_ranks = counts(rows) if self._together and self.part_size else [rows]
        sizes = part_sizes(rows, self.part_size, of_ranks)
        if len(sizes) == 1:
            return self._answer(*inputs)
        run = self._answer
        if torch.is_grad_enabled():
            run = partial(checkpoint, self._answer, use_reentrant=False)
        parts = zip(*(torch.split(each, sizes) for each in inputs), strict=True)
        outputs = [run(*part) for part in parts]
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs)
        if isinstance(outputs[0], tuple):
            return tuple(_joined(pieces) for pieces in zip(*outputs, strict=True))
        raise ConfigError(
            "a model that runs in parts must give a tensor or a tuple of tensors; "
            f"this one gives {type(outputs[0]).__name__}"
        )

    def _answer(self, *inputs: Tensor) -> Any:
        return answer(self.model, *inputs)


def _joined(pieces: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(pieces) if pieces[0].ndim else pieces[0]


def traceless(
    model: nn.Module,
    function: Callable[[nn.Module, Batch], T],
    *,
    micro_batch_size: int = 0,
    bf16: bool = False,
) -> Callable[[Batch], T]:
    """``function`` of ``model`` and a batch, without a trace on the model or the random state.

    The model sees ``micro_batch_size`` rows at a time, if that is not 0; ``function`` sees its
    answer to all of them.
    """
    in_parts = InParts(model, micro_batch_size)

    def run(batch: Batch) -> T:
        with scoring(in_parts), autocast(batch, bf16):
            return function(in_parts, batch)

    return run


def loss_source(
    model: nn.Module, task: Task, *, micro_batch_size: int = 0, bf16: bool = False
) -> LossSource:
    """The act losses of ``model``, without a trace, fp32; in parts if ``micro_batch_size`` > 0."""
    return traceless(model, task.act_loss, micro_batch_size=micro_batch_size, bf16=bf16)


def split(batch: Batch, part_size: int, of_ranks: Sequence[int] | None = None) -> list[Batch]:
    """``batch`` in parts, in order, as `part_sizes` says; whole if ``part_size`` is 0."""
    sizes = part_sizes(size(batch), part_size, of_ranks or [size(batch)])
    if len(sizes) == 1:
        return [batch]
    rows = torch.arange(size(batch), device=next(iter(batch.values())).device)
    return [take(batch, part) for part in torch.split(rows, sizes)]


def part_sizes(rows: int, part_size: int, of_ranks: Sequence[int]) -> list[int]:
    """Sizes of the parts of ``rows``: ``part_size`` each and the rest; one part if that is 0.

    As many parts as the longest of ``of_ranks``, the rows of each rank, has; so where ranks have
    different numbers of rows, parts are made equal instead. None is empty: for that, the shortest
    rank's parts are as many as its rows, and others' may be larger than ``part_size``.
    """
    if part_size <= 0:
        return [rows]
    parts = max(1, min(-(-max(of_ranks) // part_size), *of_ranks))
    if parts == -(-rows // part_size):
        return [part_size] * (parts - 1) + [rows - part_size * (parts - 1)]
    return [rows // parts + (place < rows % parts) for place in range(parts)]


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
            micro_batch_size=self.optimisation.micro_batch_size,
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
        self.recomputes = self.task.coupled and 0 < part_size < max(of_ranks)
        together = of_ranks if self._together else None
        losses = []
        for part in [batch] if self.task.coupled else split(batch, part_size, together):
            # Ranks' gradients are averaged: each rank's share of the whole is so many times as big.
            share = len(of_ranks) * size(part) / self.examples
            with autocast(part, self.optimisation.bf16):
                loss = self.task.learn_loss(self._learned, part) * share
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
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
