"""Criteria: which losses make a score (paper, section 3.1).

A criterion is signed weights on per-example losses by role. Which models must run, what scoring
costs and whose weights the actors need all follow from that one mapping. Where something other
than the loss is weighed, or the sum is not yet the score, a value of the criterion says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from superbatch.errors import ConfigError
from superbatch.measures import Measure, loss
from superbatch.types import Batch, LossSource, Role, size


Shape = Callable[[Float[Tensor, " B"]], Float[Tensor, " B"]]
"""From the sums of a super-batch to its scores."""


def as_is(sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The sums themselves."""
    return sums


@dataclass(frozen=True)
class Criterion:
    """``score(x) = sum over roles of weight * loss(x | role)``. No role at all: uniform sampling.

    ``measure`` is what stands for the loss, and ``shape`` turns the sums of a whole super-batch
    into its scores, by their ranks for example. Raises ``ConfigError`` for a role that does not
    exist.
    """

    weights: Mapping[Role, float]
    measure: Measure = loss
    shape: Shape = as_is

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(get_args(Role))
        if unknown:
            raise ConfigError(
                f"a criterion weighs the losses of {', '.join(get_args(Role))}; "
                f"it was given {', '.join(sorted(unknown))}"
            )
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    @property
    def roles(self) -> frozenset[Role]:
        """The models that must run for a score."""
        return frozenset(self.weights)

    def score(self, batch: Batch, losses: Mapping[Role, LossSource]) -> Float[Tensor, " B"]:
        """Higher = more wanted. Every role sees the same ``batch``; sums are taken in fp32.

        ``losses`` gives what ``measure`` says of each role.
        """
        device = batch["id"].device
        score = torch.zeros(size(batch), dtype=torch.float32, device=device)
        for role, weight in self.weights.items():
            score = score + weight * losses[role](batch).float().to(device)
        return self.shape(score)


uniform = Criterion({})
hard = Criterion({"online": 1.0})  # paper, eq. 1, scored by the small online model
hard_learner = Criterion({"learner": 1.0})  # paper, eq. 1, scored by the learner itself
easy = Criterion({"reference": -1.0})  # paper, eq. 2
learnability = Criterion({"online": 1.0, "reference": -1.0})  # paper, eq. 3-4
rho_loss = Criterion({"learner": 1.0, "reference": -1.0})  # Mindermann et al., eq. 3

CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "uniform": uniform,
        "hard": hard,
        "hard_learner": hard_learner,
        "easy": easy,
        "learnability": learnability,
        "rho_loss": rho_loss,
    }
)
"""The criteria by the name that a configuration gives them."""
