"""The loop: Algorithm 1 of the paper, whatever the criterion, the bank and the actors are."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from superbatch.actors import Actors, Scored
from superbatch.actors.alone import Course
from superbatch.bank import Bank, Draw
from superbatch.clock import Clock
from superbatch.flops import Ledger
from superbatch.learner import Learner
from superbatch.types import Role, View, size


@dataclass(frozen=True)
class Step:
    """What one turn of the loop did. Losses stay tensors: reading one would wait for the device.

    ``scored`` are the super-batches that arrived, none where the bank had enough.
    """

    number: int
    scored: tuple[Scored, ...]
    draw: Draw
    losses: Mapping[Role, Float[Tensor, ""]]


@dataclass(frozen=True)
class Intake:
    """Brings the bank what it wants, and counts what that costs."""

    source: Iterator[Scored]
    bank: Bank
    ledger: Ledger
    roles: Collection[Role]
    clock: Clock
    ready: Callable[[], bool]

    def __call__(self, number: int, count: int) -> tuple[Scored, ...] | None:
        """What arrived before ``count`` examples are drawn for step ``number``.

        None where the source ended before the bank had what it wants.
        """
        arrived: list[Scored] = []
        while self._wants(number, count):
            scored = next(self.source, None)
            if scored is None:
                return None
            self.ledger.score(self.roles, size(scored.examples))
            with self.clock("selection"):
                self.bank.add(scored.examples, scored.scores, scored.weights_step)
            arrived.append(scored)
        self.ledger.score(self.roles, self.bank.renew(number))
        return tuple(arrived)

    def _wants(self, number: int, count: int) -> bool:
        self.bank.expire(number)
        return self.bank.wants(count) or (self.bank.accepts() and self.ready())


def train(
    actors: Actors,
    bank: Bank,
    trained: Mapping[Role, Learner],
    ledger: Ledger,
    *,
    steps: range,
    sub_batch_size: int,
    roles: Collection[Role],
    learn_view: View,
    alone: Mapping[Role, Course],
    clock: Clock,
    ready: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Turns ``steps`` of Algorithm 1, each yielded when it is done; until the actors have no more.

    ``roles`` scored each super-batch. Every role in ``trained`` learns from the sub-batch as
    ``learn_view`` shows it, with the pixels that the bank may not have kept, except those that
    learn ``alone`` (the reference of Online-ClassAct, paper section 4.4). ``ready`` says whether a
    super-batch could be had without waiting for it.
    """
    intake = Intake(iter(actors), bank, ledger, roles, clock, ready)
    for number in steps:
        arrived = intake(number, sub_batch_size)
        if arrived is None:
            return
        with clock("selection"):
            # Unreadable images leave a super-batch short; it then gives what it has.
            draw = bank.sample(min(sub_batch_size, len(bank)))
        with clock("data"):
            sub_batch = learn_view(draw.examples)
        losses = {}
        for role, model in trained.items():
            if role in alone:
                losses[role] = alone[role](number)
            else:
                with clock(role):
                    losses[role] = model.step(sub_batch)
            ledger.learn(role, model.examples)
            if model.recomputes:
                ledger.recompute(role, model.examples)
        actors.publish(number, trained)
        yield Step(number, arrived, draw, losses)
