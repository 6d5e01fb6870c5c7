"""Actors elsewhere, by hand: a transport that only says what the test lets it say."""

import numpy as np
import pytest

from superbatch.actors.news import Crashed, Died, Found, Ready
from superbatch.actors.remote import RemoteActors
from superbatch.errors import DataError, RunError


class ByHand:
    """Notes what it is asked; its news are those that the test put there."""

    def __init__(self):
        self.time = 0.0
        self.started, self.asked, self.ended, self.waiting = [], [], [], []
        self.answers = True
        self.published = []

    def start(self, actor):
        self.started.append(actor)
        if self.answers:
            self.waiting.append(Ready(actor))

    def ask(self, actor, number):
        self.asked.append((actor, number))
        if self.answers:
            self.waiting.append(found(actor, number))

    def news(self, seconds):
        if self.waiting:
            return self.waiting.pop(0)
        self.time += seconds
        return None

    def end(self, actor):
        self.ended.append(actor)

    def publish(self, step, trained):
        self.published.append(step)

    def close(self):
        pass


def found(actor, number, seconds=0.5):
    ids = np.array([10 * number, 10 * number + 1])
    scores = np.zeros(2, dtype=np.float32)
    return Found(actor, number, {"id": ids, "draw": ids}, scores, {}, number, seconds)


def remote(transport, **changes):
    settings = {
        "count": 1,
        "numbers": range(1, 10),
        "max_staleness": 0,
        "timeout": 60.0,
        "step": 0,
        "ids_of": lambda number: np.arange(20) + 100 * number,
        "arrived": lambda found: None,
        "now": lambda: transport.time,
    }
    return RemoteActors(transport, transport.publish, **(settings | changes))


def numbers_asked(transport):
    return [number for _, number in transport.asked]


def test_in_step_nothing_is_asked_before_the_weights_are_there():
    transport = ByHand()
    actors = remote(transport)
    turns = iter(actors)
    assert next(turns).examples["id"].tolist() == [10, 11]
    assert numbers_asked(transport) == [1]
    actors.publish(1, {})
    assert numbers_asked(transport) == [1, 2]
    next(turns)
    actors.publish(2, {})
    assert numbers_asked(transport) == [1, 2, 3]


def test_weights_of_step_n_permit_what_is_needed_until_n_plus_1_plus_the_staleness():
    transport = ByHand()
    actors = remote(transport, max_staleness=2, count=4)
    turns = iter(actors)
    next(turns)
    assert numbers_asked(transport) == [1, 2, 3]  # at step 0: 3 - 1 - 2 = 0
    next(turns)
    assert numbers_asked(transport) == [1, 2, 3]
    actors.publish(1, {})
    assert numbers_asked(transport) == [1, 2, 3, 4]


def test_what_is_needed_later_may_be_begun_later():
    # Two super-batches a step: 1 and 2 in step 1, 3 and 4 in step 2.
    transport = ByHand()
    actors = remote(transport, count=4, needed_at=lambda number: (number + 1) // 2)
    turns = iter(actors)
    next(turns)
    assert numbers_asked(transport) == [1, 2]
    next(turns)
    assert numbers_asked(transport) == [1, 2]
    next(turns)  # who asks for more than that is given it: there is nothing fresher
    assert numbers_asked(transport) == [1, 2, 3]


def test_what_lies_ready_is_not_more_than_two_for_each_actor():
    transport = ByHand()
    actors = remote(transport, count=2, max_staleness=100, numbers=range(1, 100))
    turns = iter(actors)
    next(turns)
    assert numbers_asked(transport) == [1, 2, 3, 4, 5, 6]


def test_the_last_number_is_the_last():
    transport = ByHand()
    actors = remote(transport, numbers=range(4, 6), step=3, max_staleness=5)
    assert [scored.weights_step for scored in actors] == [4, 5]
    assert numbers_asked(transport) == [4, 5]


def test_each_is_accounted_for_when_it_is_handed_on():
    transport = ByHand()
    heard = []
    actors = remote(transport, max_staleness=3, arrived=lambda one: heard.append(one.number))
    turns = iter(actors)
    next(turns)
    assert heard == [1]
    assert len(transport.asked) > 1


def test_an_actor_that_dies_is_replaced_and_what_it_held_is_scored_again():
    transport = ByHand()
    transport.answers = False
    actors = remote(transport, max_staleness=2)
    transport.waiting = [Ready(0)]
    turns = iter(actors)
    script = iter([[Died(0, "killed")], [Ready(1)], [found(0, 1)], [found(1, 1)], [found(1, 2)]])
    quiet = transport.news

    def news(seconds):
        if not transport.waiting and seconds > 0:
            transport.waiting = next(script)
        return quiet(seconds)

    transport.news = news
    assert next(turns).examples["id"].tolist() == [10, 11]
    assert transport.asked == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert transport.ended == [0]
    assert actors.metrics()["actors/lost"] == 1
    assert actors.metrics()["actors/lost"] == 1


def test_an_actor_that_says_nothing_is_given_up_after_the_time_limit():
    transport = ByHand()
    transport.answers = False
    transport.waiting = [Ready(0)]
    actors = remote(transport)
    turns = iter(actors)

    def start(actor):
        assert transport.time == 60.0
        transport.answers = True
        ByHand.start(transport, actor)

    ByHand.start(transport, 0)
    transport.start = lambda actor: start(actor) if actor else None
    next(turns)
    assert transport.ended == [0]
    assert transport.asked == [(0, 1), (1, 1)]


def test_a_learner_that_was_busy_for_long_gives_nobody_up():
    transport = ByHand()
    actors = remote(transport, max_staleness=3)
    turns = iter(actors)
    next(turns)
    transport.time += 10_000  # an evaluation, say; meanwhile the news have come
    next(turns)
    assert transport.ended == []


def test_an_idle_actor_is_not_given_up():
    transport = ByHand()
    actors = remote(transport)
    turns = iter(actors)
    next(turns)
    transport.time += 10_000
    actors.publish(1, {})
    next(turns)
    assert transport.ended == []


def test_a_new_actor_has_ten_time_limits_to_open_its_data():
    transport = ByHand()
    transport.answers = False
    actors = remote(transport)
    with pytest.raises(RunError, match=r"5 actors were lost in a row.*600 seconds"):
        next(iter(actors))
    assert transport.time == 5 * 600.0


def test_actors_that_die_again_and_again_end_the_run_with_the_ids():
    transport = ByHand()
    actors = remote(transport)
    transport.ask = lambda actor, number: transport.waiting.append(Died(actor, "code -9"))
    told = r"while it scored super-batch 1 \(ids 100, 101, .*107 and 12 more\): code -9"
    with pytest.raises(RunError, match=told):
        next(iter(actors))
    assert transport.started == [0, 1, 2, 3, 4]


def test_an_error_ends_the_run_with_its_traceback_and_the_ids():
    transport = ByHand()
    actors = remote(transport)
    crash = Crashed(0, 1, None, "Traceback: something")
    transport.ask = lambda actor, number: transport.waiting.append(crash)
    with pytest.raises(RunError, match=r"(?s)super-batch 1 \(ids 100.*Traceback: something"):
        next(iter(actors))
    transport = ByHand()
    actors = remote(transport)
    refusal = Crashed(0, 1, DataError("no image"), "...")
    transport.ask = lambda actor, number: transport.waiting.append(refusal)
    with pytest.raises(DataError, match=r"^no image$"):
        next(iter(actors))


def test_the_rate_is_what_all_actors_deliver_together():
    transport = ByHand()
    actors = remote(transport, count=3, max_staleness=5)
    turns = iter(actors)
    for _ in range(4):
        next(turns)
    assert actors.metrics()["actors/super_batches_per_second"] == pytest.approx(3 / 0.5)
