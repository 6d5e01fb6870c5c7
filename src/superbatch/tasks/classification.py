"""Classification: cross-entropy to score and to learn (paper, section 3.4, "ClassAct")."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from superbatch.errors import ConfigError
from superbatch.tasks.pixels import answer
from superbatch.types import Batch


TEXT = ("text", "mask")
"""The inputs of a model of texts: Int64[n, context], and Bool[n, context], false at padding."""


def whole(labels: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
    """Whole numbers of any width as int64, which torch's losses want; shares as they are."""
    return labels if labels.is_floating_point() else labels.long()


@dataclass(frozen=True)
class Classification:
    """A batch has ``label`` (Int64[n]) and ``inputs``, which the model maps to ``[n, C]`` logits.

    Images are ``uint8 [n, channels, height, width]``, brought to [-1, 1] here; all else is taken as
    it is: images of floats, texts as token ids with their mask (`TEXT`). Label smoothing is the
    learner's alone: it would shift every score by a constant that differs between models.
    """

    label_smoothing: float = 0.0
    inputs: tuple[str, ...] = ("image",)
    """Fields of a batch, in the order in which the model takes them."""

    @property
    def coupled(self) -> bool:
        """No: each example has its own label."""
        return False

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "n C"]:
        """The model's answer, or its ``.logits``, fp32 whatever precision it was computed in.

        Raises ``ConfigError`` for a model that answers with anything but a tensor.
        """
        answered = answer(model, *(batch[name] for name in self.inputs))
        logits = getattr(answered, "logits", answered)
        if not isinstance(logits, Tensor):
            raise ConfigError(
                f"{type(model).__name__} answers with {type(logits).__name__} and not with a "
                "tensor of logits, one for each class, nor has that .logits; give a module that "
                "returns these alone"
            )
        return logits.float()

    def act_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        """Cross-entropy of each example, without label smoothing."""
        logits = self.logits(model, batch)
        return functional.cross_entropy(logits, whole(batch["label"]), reduction="none")

    def learn_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of the batch, with the task's label smoothing.

        With a field ``"weight"``, Float[n], it is the mean of the weighted ones.
        """
        weight = batch.get("weight")
        losses = functional.cross_entropy(
            self.logits(model, batch),
            whole(batch["label"]),
            label_smoothing=self.label_smoothing,
            reduction="mean" if weight is None else "none",
        )
        return losses if weight is None else (weight * losses).mean()

    def constrain(self, model: nn.Module) -> None:
        """Nothing is bounded."""
