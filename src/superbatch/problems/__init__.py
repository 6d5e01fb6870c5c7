"""Problems: data with the models, the task and the evaluation that belong together.

Everything in which kinds of learning differ is here; the loop, its actors and the run are the same
for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from superbatch.config import Config
from superbatch.sources.examples import Progress
from superbatch.sources.stream import Readable
from superbatch.tasks import Task
from superbatch.types import Role


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    examples: int
    """How many it looked at."""
    metrics: Mapping[str, float | int]
    """A row of ``metrics.jsonl``; names begin with ``val/``."""
    summary: Mapping[str, Any]
    """The same and more for ``summary.json``, as JSON values."""


@runtime_checkable
class Problem(Protocol):
    """One kind of learning on the data that a configuration names."""

    @property
    def examples(self) -> Readable:
        """What is trained on, and more: see ``rows``."""
        ...

    @property
    def rows(self) -> Int64[np.ndarray, " rows"]:
        """The rows of ``examples`` that are trained on."""
        ...

    @property
    def task(self) -> Task:
        """What losses are."""
        ...

    @property
    def skipped(self) -> int:
        """Examples left out because they are broken, of a set that is only evaluated on too."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """How often the data had something that cannot be used, by reason; see ``skipped`` for
        broken images.
        """
        ...

    @property
    def fitting(self) -> Mapping[str, Any]:
        """Settings of ``Data`` that make other data fit the models, such as the images' size."""
        ...

    def model(self, role: Role) -> nn.Module:
        """A new model for ``role``, its weights decided by the run's seed and the role."""
        ...

    def load(self, path: str, role: Role) -> nn.Module:
        """The model whose weights ``path`` holds. ``CheckpointError`` if it is of other data."""
        ...

    def about(self, role: Role) -> dict[str, Any]:
        """What a weights file says of its model, so that a misfit is refused with both values."""
        ...

    def forward_flops(self, model: nn.Module) -> int:
        """The price of one example."""
        ...

    def evaluate(self, model: nn.Module, device: torch.device) -> Evaluation:
        """How good ``model``, on ``device``, is on the part that nothing is trained on."""
        ...


def problem_of(config: Config, progress: Progress | None = None) -> Problem:
    """Open the data of ``config``. Errors are those of ``sources``."""
    if config.task == "image_text":
        from superbatch.problems.image_text import ImageText  # needs the extra [clip]

        return ImageText.open(config, progress)
    if config.task == "text":
        from superbatch.problems.text import TextClassification  # needs the extra [text]

        return TextClassification.open(config, progress)
    from superbatch.problems.classification import ImageClassification

    return ImageClassification.open(config, progress)
