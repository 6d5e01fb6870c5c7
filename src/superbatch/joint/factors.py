"""Logits of a whole super-batch as two thin matrices, and how they travel with its examples."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from superbatch.errors import ConfigError
from superbatch.types import ROLES, Batch, Role


@dataclass(frozen=True)
class LogitFactors:
    """All logits of a super-batch, as ``image @ text.T``."""

    image: Float[Tensor, "B k"]
    text: Float[Tensor, "B k"]

    @property
    def own(self) -> Float[Tensor, " B"]:
        """The logit of each image with its own text."""
        return (self.image * self.text).sum(dim=1)


def logit_factors(
    image: Float[Tensor, "B _"],
    text: Float[Tensor, "B _"],
    scale: Float[Tensor, ""] | float,
    bias: Float[Tensor, ""] | float | None = None,
) -> LogitFactors:
    """Factors of ``scale * image @ text.T + bias``, in fp32 or more; the bias is one more column.

    Embeddings of different widths are a ``ConfigError``.
    """
    if image.shape[1] != text.shape[1]:
        raise ConfigError(
            f"embeddings of images are {image.shape[1]} wide and those of texts {text.shape[1]}; "
            "the two towers of a model must end in the same width"
        )
    precision = torch.promote_types(image.dtype, torch.float32)
    image, text = scale * image.detach().to(precision), text.detach().to(precision)
    if bias is not None:
        one = torch.ones_like(text[:, :1])
        image, text = torch.cat([image, bias * one], dim=1), torch.cat([text, one], dim=1)
    return LogitFactors(image.detach(), text)


def with_factors(batch: Batch, role: Role, factors: LogitFactors) -> Batch:
    """``batch`` with the factors of ``role`` as two more fields, which travel with its rows."""
    image, text = _fields(role)
    return {**batch, image: factors.image, text: factors.text}


def factors_of(batch: Batch) -> Mapping[Role, LogitFactors]:
    """The factors of every role that ``with_factors`` gave to ``batch``."""
    fields = {role: _fields(role) for role in ROLES}
    return {
        role: LogitFactors(batch[image], batch[text])
        for role, (image, text) in fields.items()
        if image in batch
    }


def without_factors(batch: Batch) -> Batch:
    """``batch`` as it was before ``with_factors``."""
    extra = {name for role in ROLES for name in _fields(role)}
    return {name: field for name, field in batch.items() if name not in extra}


def _fields(role: Role) -> tuple[str, str]:
    return f"logits/{role}/image", f"logits/{role}/text"
