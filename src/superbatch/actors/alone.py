"""A model that learns alone, from uniform batches of its own: the reference of Online-ClassAct.

Update ``n`` is made of the state after update ``n - 1``, batch ``n`` of the model's own stream and
random numbers of its own, and of nothing that others do. So it can be made anywhere, and before the
learner comes to it: ``InTheLoop`` makes it when it is wanted, ``Beside`` has it made elsewhere by a
``Student`` that may be some updates ahead.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from superbatch.actors.actor import Setup, Weights, arrays_of
from superbatch.actors.crew import Crew
from superbatch.actors.news import Answer, Studied
from superbatch.actors.weights import Shelf
from superbatch.clock import Clock
from superbatch.learner import Learner
from superbatch.seeds import derived_seed
from superbatch.sources.stream import Batches
from superbatch.types import Batch, Role, to_device


@runtime_checkable
class Course(Protocol):
    """How a model learns alone."""

    def __call__(self, number: int) -> Float[Tensor, ""]:
        """Have the model's update ``number`` made, after all before it; its loss, detached."""
        ...

    @property
    def lost(self) -> int:
        """Actors that died or hung over it, and were replaced."""
        ...

    def close(self) -> None:
        """Free what was taken."""
        ...


@final
class InTheLoop:
    """Updates made in the learner's process, when they are wanted."""

    lost = 0

    def __init__(
        self, learner: Learner, batches: Iterable[Batch], *, role: Role, seed: int, clock: Clock
    ) -> None:
        self._learner = learner
        self._batches = iter(batches)
        self._role = role
        self._seed = seed
        self._clock = clock

    def __call__(self, number: int) -> Float[Tensor, ""]:
        """See ``Course``."""
        with self._clock("data"):
            batch = next(self._batches)
        with self._clock(self._role):
            return update(self._learner, batch, self._seed, number)

    def close(self) -> None:
        """Nothing was taken."""


@final
class Student:
    """Makes updates of ``learner`` by number, each from the batch that ``read`` gives.

    A ``Worker``. Where it ``carries`` its state, that comes with each answer.
    """

    def __init__(
        self,
        learner: Learner,
        read: Callable[[int], tuple[Batch, frozenset[int]]],
        *,
        role: Role,
        seed: int,
        device: torch.device | str = "cpu",
        carries: bool = False,
    ) -> None:
        self._learner = learner
        self._read = read
        self._role = role
        self._seed = seed
        self._device = device
        self._carries = carries

    @property
    def weights(self) -> Weights:
        """All that updates change: who writes here has it go on from another state."""
        return {self._role: self._learner.numbers()}

    def answer(self, actor: int, number: int, weights_step: int) -> Studied:
        """Update ``number``; those before it are made again where the state is an older one."""
        self._learner.steps = max(self._learner.steps, weights_step)
        while self._learner.steps < number - 1:
            self._study(actor, self._learner.steps + 1)
        return self._study(actor, number)

    def _study(self, actor: int, number: int) -> Studied:
        begun = time.perf_counter()
        batch, skipped = self._read(number)
        loss = update(self._learner, to_device(batch, self._device), self._seed, number)
        return Studied(
            actor,
            number,
            float(loss),
            self._learner.examples,
            self._learner.recomputes,
            time.perf_counter() - begun,
            skipped,
            arrays_of(self.weights) if self._carries else None,
        )


@final
class Beside:
    """Updates of ``learner`` made elsewhere by a ``crew`` of one, and taken over here in order.

    ``receive`` writes the state after an update into the numbers of ``learner``, and ``publish``
    says that it was taken over: who replaces a lost actor goes on from there. ``stream`` is that of
    the model's batches, and only counts them here.
    """

    def __init__(
        self,
        crew: Crew[Studied],
        learner: Learner,
        receive: Callable[[Studied, Weights], None],
        publish: Callable[[int, Weights], None],
        stream: Batches,
        *,
        role: Role,
        clock: Clock,
    ) -> None:
        self._crew = crew
        self._learner = learner
        self._receive = receive
        self._publish = publish
        self._stream = stream
        self._role = role
        self._clock = clock
        crew.start()

    def __call__(self, number: int) -> Float[Tensor, ""]:
        """See ``Course``; the seconds of the role are those that it was waited for."""
        with self._clock(self._role):
            studied = self._crew.next()
            state: Weights = {self._role: self._learner.numbers()}
            self._receive(studied, state)
            self._publish(number, state)
        self._learner.steps = number
        self._learner.examples = studied.examples
        self._learner.recomputes = studied.recomputed
        self._stream.handed_out(studied.skipped)
        self._crew.hear()
        return torch.tensor(studied.loss)

    @property
    def lost(self) -> int:
        """Actors that died or hung over it, and were replaced."""
        return self._crew.lost

    def close(self) -> None:
        """End the actor."""
        self._crew.close()


def studying(setup: Setup, shelf: Shelf) -> Callable[[int, int], Answer]:
    """The work of a process that takes each state from ``shelf``, and puts the next one there.

    It keeps nothing of its own, so whoever replaces it does what it would have done.
    """
    student = setup()

    def answer(actor: int, number: int) -> Answer:
        shelf.read(number - 1, student.weights)
        answer = student.answer(actor, number, number - 1)
        shelf.write(number, student.weights)
        return answer

    return answer


def from_answer(studied: Studied, into: Weights) -> None:
    """Write the state that came with ``studied`` into ``into``."""
    assert studied.state is not None  # the student carries it
    with torch.no_grad():
        for role, tensors in into.items():
            for name, tensor in tensors.items():
                tensor.copy_(torch.tensor(studied.state[role][name]))


def update(learner: Learner, batch: Batch, seed: int, number: int) -> Float[Tensor, ""]:
    """Update ``number`` of ``learner`` on ``batch``; its loss, detached."""
    with numbers_of_its_own(derived_seed(seed, str(number)), batch["id"].device):
        return learner.step(batch)


@contextmanager
def numbers_of_its_own(seed: int, device: torch.device) -> Iterator[None]:
    """Within: random numbers are those of ``seed``. After: they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
