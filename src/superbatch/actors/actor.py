"""One actor's work, wherever it is: to read a super-batch by its number, and to score it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from superbatch.actors.news import Found
from superbatch.actors.scorers import Scorer
from superbatch.learner import Learner
from superbatch.sources.duplicates import duplicates
from superbatch.types import Batch, Role, small_fields, to_device


Weights = Mapping[Role, Mapping[str, Tensor]]
"""By role, the tensors of a model by name; writing into them changes the model."""


@dataclass(frozen=True)
class Actor:
    """Scores super-batches by number; which weights it has is its host's business."""

    read: Callable[[int], tuple[Batch, frozenset[int]]]
    """The super-batch of a number, and the ids of examples that are broken and not in it."""
    scorer: Scorer
    weights: Weights
    """Of the models that are published, for the host to write into."""
    view: Callable[[Batch], Batch] = lambda batch: batch
    """What is scored of a super-batch; it may leave examples out."""
    device: torch.device | str = "cpu"
    looked_up_in_vain: Callable[[], int] = lambda: 0
    """Examples since this was last asked that a table lacked and a model scored."""

    def score(self, actor: int, number: int, weights_step: int) -> Found:
        """Score super-batch ``number`` as ``actor``, with the weights as they are."""
        begun = time.perf_counter()
        whole, skipped = self.read(number)
        batch = self.view(whole)
        scores = self.scorer(to_device(batch, self.device))
        added = {name: scores.examples[name] for name in scores.examples.keys() - batch.keys()}
        carried = {**small_fields(batch), **added}
        return Found(
            actor,
            number,
            examples={name: on_host(field) for name, field in carried.items()},
            scores=on_host(scores.scores),
            losses={role: on_host(losses) for role, losses in scores.losses.items()},
            weights_step=weights_step,
            seconds=time.perf_counter() - begun,
            skipped=skipped,
            duplicates=unseen_duplicates(whole, batch),
            looked_up_in_vain=self.looked_up_in_vain(),
        )


Setup = Callable[[], Actor]
"""Makes an actor from nothing but itself; picklable."""


def unseen_duplicates(whole: Batch, scored: Batch) -> int:
    """Pairs of ``whole`` that came twice, less those that ``small_fields`` of ``scored`` show."""
    if "image_id" not in whole:
        return 0
    return int(duplicates(whole).sum()) - int(duplicates(small_fields(scored)).sum())


def on_host(tensor: Tensor) -> np.ndarray:
    """The numbers of ``tensor``."""
    return tensor.detach().cpu().numpy()


def weights_of(trained: Mapping[Role, Learner]) -> Weights:
    """The weights of models that learn, as they are published: they change as the models do."""
    return {role: learner.model.state_dict() for role, learner in trained.items()}
