"""Contrastive: which caption belongs to which image (paper, section 3.4, "ActiveCLIP").

A two-tower model maps images ``[n, 3, height, width]`` in [-1, 1] and texts ``Int64[n, context]``
to embeddings, L2-normalised, with the scale of their products (already exponentiated) and, for the
sigmoid loss, a bias: ``(image, text, scale)`` or ``(image, text, scale, bias)``. open_clip's
``CLIP`` and ``CustomTextCLIP`` are such models.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from superbatch.distributed import counts, gather_rows, world
from superbatch.errors import ConfigError
from superbatch.tasks.pixels import answer
from superbatch.types import Batch


Loss = Literal["softmax", "sigmoid"]
"""CLIP's loss or SigLIP's."""

Act = Literal["dot", "contrastive", "sigmoid_diagonal"]
"""What a pair is scored by: see ``Contrastive.act_loss``."""

_LARGEST_SCALE = 100.0
"""CLIP's bound on the scale (Radford et al. 2021, section 2.5), which open_clip keeps for both."""

_ROWS_AT_ONCE = 1024
"""Of the products of a super-batch with itself: 32,768 pairs at once would be 4 GB."""


@dataclass(frozen=True)
class Embeddings:
    """What a two-tower model says of pairs, fp32: row ``i`` of both is one pair."""

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "n d"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None

    def similarity(self) -> Float[Tensor, " n"]:
        """The cosine of each image and its own text."""
        return (self.image * self.text).sum(dim=1)

    def logits(self, similarity: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Cosines as the model weighs them: times its scale, plus its bias."""
        logits = self.scale * similarity
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True)
class Contrastive:
    """A batch has ``image``, bytes or floats, and ``text`` (Int64[n, context], token ids).

    ``score_scale`` multiplies the cosines of act loss "dot": those of a batch differ by some 0.05,
    so that at 1 and temperature 1 the choice is almost uniform. The paper names none. Scaling by
    each model's own learned scale instead would compare the scales, not the embeddings.
    """

    loss: Loss
    act: Act = "dot"
    score_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (("loss", self.loss, Loss), ("act", self.act, Act)):
            if value not in get_args(known):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(known))}; it is {value}"
                )

    @property
    def coupled(self) -> bool:
        """Yes: every other pair of the batch is a negative."""
        return True

    def embeddings(self, model: nn.Module, batch: Batch) -> Embeddings:
        """What ``model`` says of the pairs.

        Raises ``ConfigError`` for a model that is not a two-tower model.
        """
        said = answer(model, batch["image"], batch["text"])
        if not isinstance(said, tuple) or len(said) not in (3, 4):
            found = f"{len(said)} outputs" if isinstance(said, tuple) else type(said).__name__
            raise ConfigError(
                "a two-tower model gives (image embeddings, text embeddings, scale), or these and "
                f"a bias; this one gives {found}"
            )
        image, text, *scalars = (tensor.float() for tensor in said)
        if image.shape[-1] != text.shape[-1]:
            raise ConfigError(
                f"the image tower gives embeddings {image.shape[-1]} wide and the text tower "
                f"{text.shape[-1]}; give both the same width, for their products"
            )
        if any(scalar.ndim for scalar in scalars):
            raise ConfigError(
                "the scale and the bias of a two-tower model must be single numbers; their shapes "
                f"are {[tuple(scalar.shape) for scalar in scalars]}"
            )
        return Embeddings(image, text, *scalars)

    def act_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        """One loss per pair.

        - "dot": minus the cosine (paper, eq. 7), times ``score_scale``;
        - "sigmoid_diagonal": minus the log of the sigmoid of the pair's logit;
        - "contrastive": what the pair costs in the super-batch, on all ranks. Softmax: the mean of
          its image's loss among all texts and its text's among all images. Sigmoid: its own loss
          and those of its image and its text with all others, by which the super-batch's summed
          loss would be less without it.

        The first two are the same whatever else is in the batch, and can be kept on disk.
        """
        found = self.embeddings(model, batch)
        if self.act == "dot":
            return -self.score_scale * found.similarity()
        own = -functional.logsigmoid(found.logits(found.similarity()))
        if self.act == "sigmoid_diagonal":
            return own
        both_ways = self._image_to_text(found) + self._text_to_image(found)
        return both_ways / 2 if self.loss == "softmax" else both_ways - own

    def learn_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """The mean over the pairs of this rank, each among those of all ranks.

        "softmax" is open_clip's ``ClipLoss``, the average of both directions where the paper
        (eq. 8) has their sum; "sigmoid" is its ``SigLipLoss``, a sum over the other side. Raises
        ``ConfigError`` for importance weights.
        """
        if "weight" in batch:
            raise ConfigError(
                "importance weights are of single examples and the contrastive loss of a pair "
                "depends on the others in its batch; leave the exponent at 0"
            )
        found = self.embeddings(model, batch)
        losses = self._image_to_text(found)
        if self.loss == "softmax":  # the sigmoid loss of all rows is that of all columns
            losses = (losses + self._text_to_image(found)) / 2
        return losses.mean()

    def constrain(self, model: nn.Module) -> None:
        """Keep the scale, whose log is ``model.logit_scale``, in [1, 100], as open_clip does."""
        log_scale = getattr(model, "logit_scale", None)
        if log_scale is not None:
            with torch.no_grad():
                log_scale.clamp_(0.0, math.log(_LARGEST_SCALE))

    def _image_to_text(self, found: Embeddings) -> Float[Tensor, " n"]:
        return self._losses(found, found.image, gather_rows(found.text))

    def _text_to_image(self, found: Embeddings) -> Float[Tensor, " n"]:
        return self._losses(found, found.text, gather_rows(found.image))

    def _losses(
        self, found: Embeddings, own: Float[Tensor, "n d"], others: Float[Tensor, "m d"]
    ) -> Float[Tensor, " n"]:
        """Of each row of ``own`` among all of ``others``, where its match is in the same place."""
        function = _softmax_losses if self.loss == "softmax" else _sigmoid_losses
        rank, _ = world()
        match = torch.arange(len(own), device=own.device) + sum(counts(len(own))[:rank])
        # With gradients every part is kept until they are computed: parts would save nothing.
        at_once = len(own) if torch.is_grad_enabled() else _ROWS_AT_ONCE
        losses = []
        for rows, places in zip(
            torch.split(own, at_once), torch.split(match, at_once), strict=True
        ):
            with torch.autocast(own.device.type, enabled=False):
                logits = found.logits(rows @ others.T)
            losses.append(function(logits, places))
        return torch.cat(losses)


def _softmax_losses(logits: Float[Tensor, "n m"], match: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return functional.cross_entropy(logits, match, reduction="none")


def _sigmoid_losses(logits: Float[Tensor, "n m"], match: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    match = match[:, None]
    signed = (-logits).scatter(1, match, logits.gather(1, match))
    return -functional.logsigmoid(signed).sum(dim=1)
