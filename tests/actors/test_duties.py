"""Who scores what, as a machine that is pushed about: nothing is lost, nothing done twice."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from superbatch.actors.duties import ASKED_AT_ONCE, Duties


def test_numbers_go_out_in_order_to_whoever_has_least_to_do():
    duties = Duties(1, 6, ahead=6)
    assert duties.give(lambda number: True) is None  # nobody is there
    duties.join(7)
    duties.join(8)
    given = [duties.give(lambda number: True) for _ in range(4)]
    assert given == [(7, 1), (8, 2), (7, 3), (8, 4)]
    assert duties.give(lambda number: True) is None  # both hands are full
    assert duties.finish(8, 2, "two")
    assert duties.take() is None  # the first is not there yet
    assert duties.finish(7, 1, "one")
    assert (duties.take(), duties.take(), duties.take()) == ("one", "two", None)


def test_what_a_lost_actor_held_goes_out_first_and_its_late_results_do_not_count():
    duties = Duties(1, 9, ahead=9)
    duties.join(0)
    duties.join(1)
    assert [duties.give(lambda number: True) for _ in range(4)][-1] == (1, 4)
    assert duties.leave(0) == (1, 3)
    assert not duties.finish(0, 1, "late")
    duties.join(2)
    assert [duties.give(lambda number: True) for _ in range(3)] == [(2, 1), (2, 3), None]


def test_nobody_begins_what_is_too_far_ahead():
    duties = Duties(1, 9, ahead=2)
    duties.join(0)
    duties.join(1)
    duties.join(2)
    assert [duties.give(lambda number: True) for _ in range(3)] == [(0, 1), (1, 2), None]
    duties.finish(0, 1, "one")
    assert duties.give(lambda number: True) is None
    duties.take()
    assert duties.give(lambda number: True) == (0, 3)


class Pushed(RuleBasedStateMachine):
    """Actors come and go and finish as they like."""

    def __init__(self):
        super().__init__()
        self.duties = Duties(5, 24, ahead=6)
        self.names = 0
        self.there = []
        self.taken = []

    @rule()
    def one_joins(self):
        self.duties.join(self.names)
        self.there.append(self.names)
        self.names += 1

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def one_is_lost(self, data):
        actor = data.draw(st.sampled_from(self.there))
        self.there.remove(actor)
        self.duties.leave(actor)

    @rule(limit=st.integers(5, 24))
    def work_is_given(self, limit):
        while (given := self.duties.give(lambda number: number <= limit)) is not None:
            assert given[1] <= limit

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def one_finishes(self, data):
        actor = data.draw(st.sampled_from(self.there))
        held = self.duties.held_by(actor)
        if held:
            number = data.draw(st.sampled_from(held))
            assert self.duties.finish(actor, number, number)
            assert not self.duties.finish(actor, number, number)

    @rule()
    def the_next_is_taken(self):
        result = self.duties.take()
        if result is not None:
            self.taken.append(result)

    @invariant()
    def each_number_came_once_and_in_order(self):
        assert self.taken == list(range(5, 5 + len(self.taken)))

    @invariant()
    def each_number_has_one_holder(self):
        held = [self.duties.held_by(actor) for actor in self.there]
        together = [number for numbers in held for number in numbers]
        assert len(together) == len(set(together))
        assert all(len(numbers) <= ASKED_AT_ONCE for numbers in held)
        assert all(self.duties.wanted <= n < self.duties.wanted + 6 for n in together)

    def teardown(self):
        """Whatever happened, the rest is done in the end."""
        self.duties.join(self.names)
        while not self.duties.done:
            for actor in [*self.there, self.names]:
                for number in self.duties.held_by(actor):
                    self.duties.finish(actor, number, number)
            self.the_next_is_taken()
            self.duties.give(lambda number: True)
        assert self.taken == list(range(5, 25))


TestPushed = Pushed.TestCase
TestPushed.settings = settings(max_examples=60, stateful_step_count=40)
