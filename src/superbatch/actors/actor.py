"""One actor's work, wherever it is: to read a super-batch by its number, and to score it.

How it gets published weights is its host's business: one that has them brought, as Ray's, takes a
``Setup``; a process looks for itself (``scoring``).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from superbatch.actors.news import Answer, Found
from superbatch.actors.scorers import Scorer
from superbatch.learner import Learner
from superbatch.sources.duplicates import duplicates
from superbatch.types import Batch, Role, small_fields, to_device


Weights = Mapping[Role, Mapping[str, Tensor]]
"""By role, the tensors of a model by name; writing into them changes the model."""


@runtime_checkable
class Worker(Protocol):
    """What an actor's host has: it answers numbers, with weights that the host writes."""

    @property
    def weights(self) -> Weights:
        """For the host to write into those that were published."""
        ...

    def answer(self, actor: int, number: int, weights_step: int) -> Answer:
        """As ``actor``, do what ``number`` stands for; weights of ``weights_step`` were written,
        if the worker had none as new.
        """
        ...


@dataclass(frozen=True)
class Actor:
    """Scores super-batches by number: a ``Worker``."""

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

    def answer(self, actor: int, number: int, weights_step: int) -> Found:
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


Setup = Callable[[], Worker]
"""Makes a worker from nothing but itself; picklable."""

Work = Callable[[int, int], Answer]
"""What an actor, by its number, answers to a number."""


@runtime_checkable
class Board(Protocol):
    """Where published weights are."""

    def read(self, into: Weights) -> int:
        """Write the newest into ``into``; the step after which they were."""
        ...


def scoring(setup: Setup, board: Board) -> Work:
    """The work of who looks for the newest weights on ``board`` before each answer."""
    working = setup()

    def answer(actor: int, number: int) -> Answer:
        return working.answer(actor, number, board.read(working.weights))

    return answer


def unseen_duplicates(whole: Batch, scored: Batch) -> int:
    """Pairs of ``whole`` that came twice, less those that ``small_fields`` of ``scored`` show."""
    if "image_id" not in whole:
        return 0
    return int(duplicates(whole).sum()) - int(duplicates(small_fields(scored)).sum())


def on_host(tensor: Tensor) -> np.ndarray:
    """The numbers of ``tensor``."""
    return tensor.detach().cpu().numpy()


def arrays_of(weights: Weights) -> dict[Role, dict[str, np.ndarray]]:
    """The numbers of ``weights``."""
    return {
        role: {name: on_host(tensor) for name, tensor in tensors.items()}
        for role, tensors in weights.items()
    }


def weights_of(trained: Mapping[Role, Learner]) -> Weights:
    """The weights of models that learn, as they are published: they change as the models do."""
    return {role: learner.model.state_dict() for role, learner in trained.items()}
