import numpy as np
import pytest
from test_remote import ByHand, found, remote

from superbatch.actors.fleet import WINDOW, Rates, fleet_size


@pytest.mark.parametrize(
    ("scoring", "learning", "expected"),
    [
        (6.0, 2.0, 4),  # three would just do; 15 % more is 3.45
        (1.0, 10.0, 1),
        (100.0, 1.0, 8),  # no more than the most
        (1.0, 0.0, 8),  # a learner that takes no time
    ],
)
def test_as_many_as_keep_up_with_a_little_to_spare(scoring, learning, expected):
    assert fleet_size(scoring, learning, least=1, most=8) == expected


def test_until_enough_was_measured_nothing_changes():
    rates = Rates()
    for _ in range(WINDOW - 1):
        rates.scored(6.0)
        rates.learned(2.0)
    assert rates.wanted(2, least=1, most=8) == 2
    rates.scored(6.0)
    rates.learned(2.0)
    assert rates.wanted(2, least=1, most=8) == 4
    assert rates.per_second(3) == pytest.approx(0.5)
    rates.forget()
    assert rates.wanted(3, least=1, most=8) == 3


class Paced(ByHand):
    """Actors that take ``seconds`` for a super-batch, as far as they say."""

    seconds = 5.0

    def ask(self, actor, number):
        self.asked.append((actor, number))
        self.waiting.append(found(actor, number, self.seconds))


def test_actors_are_added_while_they_are_too_slow_and_let_go_when_they_are_not():
    transport = Paced()
    actors = remote(transport, count_max=4, numbers=range(1, 101), max_staleness=100)
    turns, counts = iter(actors), []
    for step in range(1, 101):
        scored = next(turns)
        assert scored.examples["id"].tolist() == [10 * step, 10 * step + 1]
        transport.time += 1.0  # what the learner takes
        transport.seconds = 5.0 if step < 50 else 0.5
        actors.publish(step, {})
        counts.append(actors.metrics()["actors/count"])
    assert counts[0] == 1
    assert max(counts[:50]) == 4  # 5.75 would be wanted
    assert counts[-1] == 1
    assert len(transport.started) == 4
    assert len(transport.ended) == 3
    assert sorted(number for _, number in transport.asked) == list(np.arange(100) + 1)
