"""The online model of somebody else's loop: it takes the learner's steps with its own optimizer."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from superbatch.distributed import world
from superbatch.errors import ConfigError
from superbatch.learner import parameter_groups
from superbatch.seeds import derived_seed
from superbatch.sharding import average_gradients, follow_main, statistics


LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
CLIP_NORM = 1.0


class OnlineModel:
    """``model`` with an optimizer.

    If none is given: AdamW at a rate of 1e-3 and a decay of 0.05, gradients clipped at norm 1.

    On several ranks all step together, each with its rows; weights stay the same on all of them.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, *, seed: int
    ) -> None:
        self.model = model
        self.optimizer = optimizer or _default(model)
        self._clip_norm = CLIP_NORM if optimizer is None else math.inf
        self.steps = 0
        self._seed = seed
        mine = {id(p) for p in model.parameters()}
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not mine & held:
            raise ConfigError(
                "the optimizer given to Selector holds no parameter of the online model, which "
                "would never learn; make it of online.parameters(), or leave it out"
            )

    def step(
        self, loss: Callable[[nn.Module], Float[Tensor, ""]], constrain: Callable[[nn.Module], None]
    ) -> Float[Tensor, ""]:
        """One update on ``loss`` of the model, which is returned, detached; for all ranks.

        ``constrain`` brings back what the update has moved out of its bounds. The global random
        state is as before; the model's dropout has its own. A model in eval mode, as pretrained
        ones come, is brought to train mode; one of which only parts are in eval mode stays so.
        """
        self.steps += 1
        if not self.model.training:
            self.model.train()
        device = next(self.model.parameters()).device
        with torch.enable_grad(), _own_randomness(device, self._seed, self.steps):
            self.optimizer.zero_grad(set_to_none=True)
            value = loss(self.model)
            value.backward()  # type: ignore[no-untyped-call]
            average_gradients(self.model)
            if math.isfinite(self._clip_norm):
                clip_grad_norm_(self.model.parameters(), self._clip_norm)
            self.optimizer.step()
            constrain(self.model)
            follow_main(statistics(self.model))
        return value.detach()

    def follow_main(self) -> None:
        """Take the weights of rank 0, as replicas must begin alike; for all ranks."""
        follow_main([p.detach() for p in self.model.parameters()])
        follow_main(list(self.model.buffers()))

    def to(self, device: torch.device | str) -> None:
        """Move the model and what its optimizer keeps of it."""
        self.model.to(device)
        for kept in self.optimizer.state.values():
            for name, value in kept.items():
                # AdamW keeps its count of steps on the CPU, but for a fused one
                if isinstance(value, Tensor) and value.ndim:
                    kept[name] = value.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and the number of updates."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the online model that wrote ``state`` stood."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def _default(model: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(model, WEIGHT_DECAY)
    if not groups:
        raise ConfigError(
            "the online model has no parameter that requires a gradient, so it could never learn; "
            "unfreeze it, or take a criterion without it, such as easy"
        )
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


@contextmanager
def _own_randomness(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Within: randomness of the step and the rank alone. After: the global one as before."""
    own = derived_seed(seed, "learn", str(world()[0]), str(step))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(own)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        yield
