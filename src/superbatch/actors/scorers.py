"""Scorers: from a super-batch to its scores, by one forward pass of every role that is weighed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from superbatch.criterion import Criterion
from superbatch.joint import Loss, logit_factors, own_losses, with_factors
from superbatch.tasks.contrastive import Embeddings
from superbatch.types import Batch, LossSource, Role


@dataclass(frozen=True)
class Scores:
    """Scores, the losses behind them, and the super-batch as it goes on to the bank."""

    examples: Batch
    scores: Float[Tensor, " B"]
    losses: Mapping[Role, Float[Tensor, " B"]]


Scorer = Callable[[Batch], Scores]


@dataclass(frozen=True)
class LossScorer:
    """Each example for itself, by the criterion's roles."""

    criterion: Criterion
    losses: Mapping[Role, LossSource]

    def __call__(self, batch: Batch) -> Scores:
        """Every role looks at ``batch`` once."""
        seen = {role: self.losses[role](batch) for role in sorted(self.criterion.roles)}
        scores = self.criterion.score(batch, {role: given(seen[role]) for role in seen})
        return Scores(batch, scores, seen)


@dataclass(frozen=True)
class JointScorer:
    """Pairs that will be chosen together: their embeddings go on to the bank with them.

    The score is that of a pair alone, the diagonal of the joint one.
    """

    criterion: Criterion
    embeddings: Mapping[Role, Callable[[Batch], Embeddings]]
    loss: Loss

    def __call__(self, batch: Batch) -> Scores:
        """Every role looks at ``batch`` once."""
        seen: dict[Role, Float[Tensor, " B"]] = {}
        examples = batch
        for role in sorted(self.criterion.roles):
            found = self.embeddings[role](batch)
            factors = logit_factors(found.image, found.text, found.scale, found.bias)
            seen[role] = own_losses(factors, self.loss)
            examples = with_factors(examples, role, factors)
        scores = self.criterion.score(batch, {role: given(seen[role]) for role in seen})
        return Scores(examples, scores, seen)


def given(losses: Float[Tensor, " B"]) -> LossSource:
    """The loss source of a batch whose losses are known."""
    return lambda batch: losses
