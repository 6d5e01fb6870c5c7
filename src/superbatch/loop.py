"""The loop: Algorithm 1 of the paper, whatever the criterion, the bank and the actors are."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from superbatch.actors import Actors, Scored
from superbatch.bank import Bank, Draw
from superbatch.clock import Clock
from superbatch.flops import Ledger
from superbatch.learner import Learner
from superbatch.types import Batch, Role, View, size


@dataclass(frozen=True)
class Step:
    """What one turn of the loop did. Losses stay tensors: reading one would wait for the device."""

    number: int
    scored: Scored
    draw: Draw
    losses: Mapping[Role, Float[Tensor, ""]]


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
    uniform: Mapping[Role, Iterator[Batch]],
    clock: Clock,
) -> Iterator[Step]:
    """Turns ``steps`` of Algorithm 1, each yielded when it is done.

    ``roles`` scored each super-batch. Every role in ``trained`` learns from the sub-batch as
    ``learn_view`` shows it, except those with their own stream of batches in ``uniform`` (the
    reference of Online-ClassAct, paper section 4.4).
    """
    # The range stands first: at its end no super-batch is scored in vain.
    for number, scored in zip(steps, actors, strict=False):
        ledger.score(roles, size(scored.examples))
        with clock("selection"):
            bank.add(scored.examples, scored.scores, scored.weights_step)
            # Unreadable images leave a super-batch short; it then gives what it has.
            draw = bank.sample(min(sub_batch_size, len(bank)))
        with clock("data"):
            sub_batch = learn_view(draw.examples)
        losses = {}
        for role, model in trained.items():
            batch = sub_batch
            if role in uniform:
                with clock("data"):
                    batch = next(uniform[role])
            with clock(role):
                losses[role] = model.step(batch)
            ledger.learn(role, model.examples)
            if model.recomputes:
                ledger.recompute(role, model.examples)
        actors.publish(number, trained)
        yield Step(number, scored, draw, losses)
