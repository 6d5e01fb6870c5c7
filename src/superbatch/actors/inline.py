"""The exact actor: scores in this process, with the weights of the last update."""

from collections.abc import Iterable, Iterator, Mapping

import torch

from superbatch.actors import Scored
from superbatch.actors.scorers import Scorer
from superbatch.clock import Clock
from superbatch.learner import Learner
from superbatch.types import Batch, Metrics, Role, to_device


class InlineActor:
    """Scores each super-batch of ``source`` when the loop asks for it."""

    def __init__(
        self,
        source: Iterable[Batch],
        scorer: Scorer,
        *,
        device: torch.device | str = "cpu",
        clock: Clock | None = None,
        step: int = 0,
    ) -> None:
        self._source = source
        self._scorer = scorer
        self._device = device
        self._clock = clock or Clock()
        self._step = step

    def __iter__(self) -> Iterator[Scored]:
        """The next super-batch, scored with the weights as they are when it is asked for."""
        batches = iter(self._source)
        while True:
            with self._clock("data"):
                batch = next(batches, None)
                if batch is None:
                    return
                batch = to_device(batch, self._device)
            with self._clock("scoring"):
                scored = self._scorer(batch)
            yield Scored(scored.examples, scored.scores, scored.losses, self._step)

    def publish(self, step: int, trained: Mapping[Role, Learner]) -> None:
        """Nothing to send: the weights are the loop's own."""
        self._step = step

    def metrics(self) -> Metrics:
        """There are none elsewhere."""
        return {"actors/count": 0, "actors/super_batches_per_second": 0.0, "actors/lost": 0}

    def close(self) -> None:
        """Nothing was taken."""
