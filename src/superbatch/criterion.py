"""Criteria: which losses make a score (paper, section 3.1).

A criterion is signed weights on per-example losses by role. Which models must run, what scoring
costs and whose weights the actors need all follow from that one mapping. Where something other
than the loss is weighed, or the sum is not yet the score, a value of the criterion says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from superbatch import measures
from superbatch.errors import ConfigError
from superbatch.measures import Measure, loss
from superbatch.selection import ranks
from superbatch.types import Batch, LossSource, Role, size


Shape = Callable[[Float[Tensor, " B"]], Float[Tensor, " B"]]
"""From the sums of a super-batch to its scores."""


def as_is(sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The sums themselves."""
    return sums


def log(sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Their logarithms: at temperature 1 examples are then drawn in proportion to their sums.

    Sums must not be negative; 0 becomes the smallest number that is not, so that it stays finite.
    """
    return sums.clamp(min=torch.finfo(torch.float32).tiny).log()


def log_percentile(sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The logarithm of each sum's percentile, ``(its rank from 0 + 1/2) / B``.

    At temperature T examples are then drawn in proportion to their percentile to the power of 1/T
    (Selective-Backprop, Jiang et al. 2019). Ties share the mean of their ranks; what is not finite
    has no rank.
    """
    finite = torch.isfinite(sums)
    order = torch.full_like(sums, torch.nan)
    order[finite] = (ranks(sums[finite]) / finite.sum()).float()
    return order.log()


def keep_half_below_mean(sums: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """0 from the mean of the finite sums upwards, log(1 - r) with r = 1/2 below it.

    At temperature 1 examples below the mean weigh half in each draw (InfoBatch, Qin et al. 2023).
    As draws are without replacement they are chosen more than half as often as the others: 0.61
    times at 128 to 64, 0.77 at 80 to 64, where half of the examples are below the mean.
    """
    finite = torch.isfinite(sums)
    mean = sums[finite].mean()
    step = torch.where(sums < mean, math.log(1 - 0.5), 0.0)
    return torch.where(finite, step, torch.nan)


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
"""All alike; no model runs."""
hard = Criterion({"online": 1.0})
"""The small online model's loss, in nats (paper, eq. 1)."""
hard_learner = Criterion({"learner": 1.0})
"""The same asked of the learner itself."""
easy = Criterion({"reference": -1.0})
"""Minus the reference's loss, in nats (paper, eq. 2)."""
learnability = Criterion({"online": 1.0, "reference": -1.0})
"""Harder for the online model than for the reference, in nats (paper, eq. 3-4)."""
rho_loss = Criterion({"learner": 1.0, "reference": -1.0})
"""The same with the learner's own loss (Mindermann et al. 2022, eq. 3)."""

# What RHO-LOSS is held against (Mindermann et al. 2022, section 4), all asked of the learner.
_LEARNER: Mapping[Role, float] = {"learner": 1.0}
grad_norm = Criterion(_LEARNER, measures.last_layer_gradient_norm)
"""Norm of the loss's gradient by the logits (Katharopoulos and Fleuret 2018)."""
grad_norm_is = Criterion(_LEARNER, measures.last_layer_gradient_norm, log)
"""Its logarithm, so that a draw at temperature 1 is in proportion to the norm."""
grad_norm_full = Criterion(_LEARNER, measures.gradient_norm)
"""Norm of the gradient by all parameters (Alain et al. 2015)."""
entropy = Criterion(_LEARNER, measures.entropy)
"""Of the prediction, in nats."""
conditional_entropy = Criterion(_LEARNER, measures.conditional_entropy())
"""Mean entropy of predictions under dropout, in nats."""
bald = Criterion(_LEARNER, measures.bald())
"""What dropout leaves undecided, in nats (Houlsby et al. 2011; Gal and Ghahramani 2016)."""
loss_minus_conditional_entropy = Criterion(_LEARNER, measures.loss_minus_conditional_entropy())
"""Loss under dropout beyond what the model admits not to know, in nats."""
selective_backprop = Criterion(_LEARNER, shape=log_percentile)
"""Logarithm of the loss's percentile in the super-batch (Jiang et al. 2019)."""
infobatch = Criterion(_LEARNER, shape=keep_half_below_mean)
"""Losses below the mean count half (after Qin et al. 2023)."""

CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "uniform": uniform,
        "hard": hard,
        "hard_learner": hard_learner,
        "easy": easy,
        "learnability": learnability,
        "rho_loss": rho_loss,
        "grad_norm": grad_norm,
        "grad_norm_is": grad_norm_is,
        "grad_norm_full": grad_norm_full,
        "entropy": entropy,
        "conditional_entropy": conditional_entropy,
        "bald": bald,
        "loss_minus_conditional_entropy": loss_minus_conditional_entropy,
        "selective_backprop": selective_backprop,
        "infobatch": infobatch,
    }
)
"""The criteria by the name that a configuration gives them."""
