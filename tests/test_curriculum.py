"""Policies: one order out of several runs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.curriculum import policy


runs = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=60), min_size=1, max_size=4)


def test_one_run_of_its_own_length_is_itself():
    ids = np.random.default_rng(0).integers(0, 300, 1000)
    assert policy([ids], 1000).tolist() == ids.tolist()


def test_the_mean_of_two_runs_by_hand():
    """Times are 1/8, 3/8, 5/8, 7/8.

    The first run chose A B A C and the second B A D A. Of 4: A is expected twice, B once, C and D
    half a time each. Means: B (3/8 + 1/8) / 2 = 1/4; A's times 1/8 3/8 5/8 7/8 in two groups
    1/4 and 3/4; C at 7/8, D at 5/8. Along the mean times B 1/4, A 1/2, D 5/8, C 7/8 the sums are
    1, 3, 3.5, 4, rounded 1, 3, 4, 4: D comes and C does not. A and B tie at 1/4.
    """
    a, b, c, d = 10, 20, 30, 40
    assert policy([np.array([a, b, a, c]), np.array([b, a, d, a])], 4).tolist() == [a, b, d, a]


def test_a_shorter_policy_has_the_mean_time():
    """A at 1/8 and 7/8 comes once, at 1/2; B and C at 3/8 and 5/8, half a time each.

    All mean times in order: B 3/8, A 1/2, C 5/8; sums .5, 1.5, 2, rounded 1, 2, 2.
    """
    assert policy([np.array([1, 2, 3, 1])], 2).tolist() == [2, 1]


def test_a_longer_policy_keeps_copies_apart():
    """4 examples, 8 positions: copies half the order apart, where there is room.

    Times 1/8, 3/8, 5/8, 7/8 move to 1/4, 3/8, 5/8, 3/4; copies at each -1/4 and +1/4: 0, 1/8, 3/8,
    1/2 and 1/2, 5/8, 7/8, 1. At 1/2 ids 1 and 4 tie.
    """
    assert policy([np.array([1, 2, 3, 4])], 8).tolist() == [1, 2, 3, 1, 4, 2, 3, 4]


def test_many_copies_are_spread_over_the_whole():
    """A run of one example and a run of ten: the one comes ten times in 20, every other place."""
    order = policy([np.array([50]), np.arange(10)], 20)
    places = np.flatnonzero(order == 50)
    assert len(places) == 10
    assert np.diff(places, prepend=-1, append=20).max() <= 3


@settings(max_examples=200, deadline=None)
@given(runs, st.integers(1, 200))
def test_multiplicities_are_those_expected_and_sum_up(chosen, examples):
    order = policy([np.array(ids) for ids in chosen], examples)
    assert len(order) == examples
    for one in range(13):
        expected = examples * np.mean([ids.count(one) / len(ids) for ids in chosen])
        assert abs(order.tolist().count(one) - expected) < 1 + 1e-9


@settings(max_examples=100, deadline=None)
@given(runs)
def test_runs_in_another_order_make_the_same_policy(chosen):
    arrays = [np.array(ids) for ids in chosen]
    assert policy(arrays, 50).tolist() == policy(arrays[::-1], 50).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 5))
def test_the_same_run_twice_is_that_run(ids, times):
    assert (
        policy([np.array(ids)] * times, len(ids)).tolist()
        == policy([np.array(ids)], len(ids)).tolist()
    )


def test_every_stretch_of_time_keeps_its_share():
    """What is chosen once, in a run of 1000, at a tenth of the length: one of each ten."""
    ids = np.random.default_rng(0).permutation(1000)
    order = policy([ids], 100)
    time = np.empty(1000)
    time[ids] = np.arange(1000)
    assert (time[order] // 10).tolist() == list(range(100))
