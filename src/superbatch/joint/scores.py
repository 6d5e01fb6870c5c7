"""What every pair is worth, given the pairs that are chosen so far."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from superbatch.errors import ConfigError
from superbatch.joint.factors import LogitFactors
from superbatch.tasks.contrastive import Loss
from superbatch.types import Role


# Logits that exist at a time: what a CPU's caches hold; elsewhere enough to keep all cores busy.
CPU_BLOCK = 2**18
BLOCK = 2**26


def own_losses(factors: LogitFactors, loss: Loss) -> Float[Tensor, " B"]:
    """What each pair costs alone: the diagonal of the losses.

    Sigmoid: ``-log sigmoid(l_ii)``. Softmax: ``-l_ii``, the part of its loss that needs no others
    (with them it is ``logsumexp - l_ii``, and alone it would be 0 for every pair).
    """
    return functional.softplus(-factors.own) if loss == "sigmoid" else -factors.own


class JointScores:
    """The score of every pair of a super-batch, given the pairs that are chosen so far.

    Sigmoid: the exact change of the weighted batch loss (SigLIP's, summed and not yet divided by
    the batch size) if the pair joined the chosen: its own loss, that of its image with their
    texts, and that of its text with their images.

    Softmax: the weighted loss of the pair itself (CLIP's, the mean of both directions) in a batch
    of the chosen and it. That the losses of the chosen rise as well is left out: to keep that up
    to date, each chunk would have to go through all that were chosen before it again.
    """

    def __init__(
        self, factors: Mapping[Role, LogitFactors], weights: Mapping[Role, float], *, loss: Loss
    ) -> None:
        weighed = {role: weight for role, weight in weights.items() if weight}
        if not weighed or not set(weighed) <= set(factors):
            raise ConfigError(
                "joint selection needs logits of every role that the criterion weighs: it weighs "
                f"{', '.join(weighed) or 'none'}; there are those of {', '.join(factors) or 'none'}"
            )
        self._loss = loss
        self._weights = weighed
        self._factors = {role: factors[role] for role in weighed}
        self._alone = {role: own_losses(of, loss) for role, of in self._factors.items()}
        # Sigmoid: sums of the losses with the chosen. Softmax: logsumexp over them and itself.
        start = torch.zeros_like if loss == "sigmoid" else torch.neg
        self._of_image = {role: start(alone) for role, alone in self._alone.items()}
        self._of_text = {role: start(alone) for role, alone in self._alone.items()}
        # Not by the losses: the sigmoid loss of an infinite logit may be 0.
        own = torch.stack([of.own for of in self._factors.values()])
        self._open = torch.isfinite(own).all(dim=0)

    def alone(self) -> Float[Tensor, " B"]:
        """Scores by ``own_losses``; minus infinity for the chosen and for non-finite logits."""
        return self._weighted(self._alone)

    def given_chosen(self) -> Float[Tensor, " B"]:
        """Scores given the chosen; minus infinity for these and for non-finite logits."""
        share = 1.0 if self._loss == "sigmoid" else 0.5
        losses = {
            role: alone + share * (self._of_image[role] + self._of_text[role])
            for role, alone in self._alone.items()
        }
        return self._weighted(losses)

    def choose(self, index: Int[Tensor, " d"]) -> None:
        """Add the pairs ``index`` to the chosen.

        Takes two matrix products per role, of what is still open with ``index``.
        """
        self._open[index] = False
        block = CPU_BLOCK if index.device.type == "cpu" else BLOCK
        open_rows = self._open.nonzero().squeeze(1)
        blocks = torch.split(open_rows, max(1, block // len(index)))
        for role, of in self._factors.items():
            image, text = of.image[index].T, of.text[index].T
            for rows in blocks:
                self._join(self._of_image[role], rows, of.image.index_select(0, rows) @ text)
                self._join(self._of_text[role], rows, of.text.index_select(0, rows) @ image)

    def _join(
        self, losses: Float[Tensor, " B"], rows: Int[Tensor, " n"], logits: Float[Tensor, "n d"]
    ) -> None:
        if self._loss == "sigmoid":
            losses[rows] += functional.softplus(logits).sum(dim=1)
        else:
            losses[rows] = torch.logaddexp(losses[rows], logits.logsumexp(dim=1))

    def _weighted(self, losses: Mapping[Role, Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
        terms = [weight * losses[role] for role, weight in self._weights.items()]
        return torch.stack(terms).sum(dim=0).where(self._open, -torch.inf)
