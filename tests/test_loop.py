"""A turn of the loop: what arrives before the draw, and what that costs."""

import torch

from superbatch.actors import Scored
from superbatch.bank import Lockstep, MemoryBank, SamplesPerInsert
from superbatch.clock import Clock
from superbatch.flops import Ledger
from superbatch.loop import train
from superbatch.sources import plain


B, b = 8, 4


class Actors:
    """Scores super-batches of ``B``; each says with which weights."""

    def __init__(self, count=1000):
        self.count = count
        self.published = 0
        self.asked = 0

    def __iter__(self):
        for number in range(self.count):
            self.asked += 1
            draw = torch.arange(B) + B * number
            yield Scored({"id": draw, "draw": draw}, torch.zeros(B), {}, self.published)

    def publish(self, step, trained):
        self.published = step

    def metrics(self):
        return {}

    def close(self):
        pass


def turns(bank, actors, steps, ledger=None, **others):
    settings = {
        "steps": range(1, steps + 1),
        "sub_batch_size": b,
        "roles": {"online"},
        "learn_view": plain,
        "alone": {},
        "clock": Clock(),
    }
    return train(actors, bank, {}, ledger or Ledger({"online": 1}), **settings | others)


def bank(limit, capacity=4 * B, **settings):
    generator = torch.Generator().manual_seed(0)
    return MemoryBank(capacity, generator=generator, limit=limit, **settings)


def arrived(steps):
    return [len(step.scored) for step in steps]


def test_in_step_one_super_batch_comes_for_each_draw_and_none_in_vain():
    actors = Actors()
    assert arrived(turns(bank(Lockstep()), actors, 5)) == [1] * 5
    assert actors.asked == 5


def test_only_what_ran_is_counted():
    """Every third step one of 8: steps 1, 4, 7."""
    ledger = Ledger({"online": 1})
    limit = SamplesPerInsert(1.5, super_batch_size=B, sub_batch_size=b)
    steps = list(turns(bank(limit, max_times_sampled=2), Actors(), 7, ledger))
    assert arrived(steps) == [1, 0, 0, 1, 0, 0, 1]
    assert ledger.examples()["online"]["score"] == 3 * B
    assert [int(step.draw.weights_step.max()) for step in steps] == [0, 0, 0, 3, 3, 3, 6]


def test_what_is_scored_again_is_counted_and_is_new():
    """Bound 0, nothing leaves: each turn all that is left of before is scored again, 4, 8, 12."""
    ledger = Ledger({"online": 1})
    held = bank(
        Lockstep(), max_staleness=0, score_again=lambda batch: torch.zeros(len(batch["id"]))
    )
    steps = list(turns(held, Actors(), 4, ledger))
    assert ledger.examples()["online"]["score"] == 4 * B + 4 + 8 + 12
    for step in steps:
        assert step.draw.weights_step.tolist() == [step.number - 1] * b


def test_without_waiting_as_much_comes_as_the_limit_takes():
    """Ratio 0.5, buffer 16: owed stays in -12 to 20, a super-batch brings 4 and a draw takes 4."""
    there = [False]
    limit = SamplesPerInsert(0.5, super_batch_size=B, sub_batch_size=b, error_buffer=16.0)
    counts = []
    held = bank(limit, 8 * B, max_times_sampled=10)
    for step in turns(held, Actors(), 12, ready=lambda: there[0]):
        counts.append(len(step.scored))
        there[0] = step.number == 6
    # Draws run ahead by 12 before they wait; then what is there comes until 20 are owed.
    assert counts == [1, 0, 0, 0, 1, 1, 8, 0, 0, 0, 0, 0]


def test_the_run_ends_where_the_actors_do():
    assert arrived(turns(bank(Lockstep()), Actors(3), 5)) == [1, 1, 1]
