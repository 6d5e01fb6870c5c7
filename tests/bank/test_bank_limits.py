"""How many super-batches arrive for each sub-batch: rates, deadlocks, and what is refused."""

import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.bank import Limit, Lockstep, MemoryBank, SamplesPerInsert, Tally
from superbatch.errors import ConfigError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bank(capacity, limit, **settings):
    return MemoryBank(capacity, generator=generator(), limit=limit, **settings)


def arrivals(bank, turns, *, super_batch_size, sub_batch_size, short=None):
    """How many super-batches each turn of the loop takes in; those numbered ``short`` lack one."""
    taken, number = [], 0
    for _ in range(turns):
        taken.append(0)
        while bank.wants(sub_batch_size):
            count = super_batch_size - (number == short)
            draw = torch.arange(count) + number * super_batch_size
            bank.add({"id": draw, "draw": draw}, torch.zeros(count))
            number += 1
            taken[-1] += 1
        bank.sample(min(sub_batch_size, len(bank)))
    return taken


def test_both_are_limits():
    assert isinstance(Lockstep(), Limit)
    assert isinstance(SamplesPerInsert(0.5, super_batch_size=4, sub_batch_size=2), Limit)


@pytest.mark.parametrize(("B", "b"), [(32, 16), (48, 16), (7, 3), (16, 16)])
def test_one_over_rho_is_lockstep(B, b):
    sizes = {"super_batch_size": B, "sub_batch_size": b}
    for limit in (Lockstep(), SamplesPerInsert(b / B, **sizes)):
        assert arrivals(bank(4 * B, limit), 60, **sizes) == [1] * 60


@pytest.mark.parametrize("every", [2, 3, 5])
def test_k_over_rho_scores_only_every_kth_turn(every):
    sizes = {"super_batch_size": 80, "sub_batch_size": 16}
    limit = SamplesPerInsert(every * 16 / 80, **sizes)
    expected = [int(turn % every == 0) for turn in range(30)]
    assert arrivals(bank(80, limit), 30, **sizes) == expected


def test_below_one_over_rho_several_are_scored_for_a_draw():
    sizes = {"super_batch_size": 32, "sub_batch_size": 16}
    assert arrivals(bank(128, SamplesPerInsert(0.25, **sizes)), 10, **sizes) == [2] * 10


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (Lockstep(), [1, 2, 3, 4, 5]),
        (Lockstep(minimum=90), [1, 1, 1, 2, 3]),
        (SamplesPerInsert(1.5, 32, 16, minimum=16), [1, 4, 7, 10, 13]),
        (SamplesPerInsert(0.25, 32, 16), [1, 1, 2, 2, 3]),
        (SamplesPerInsert(0.5, 32, 16, minimum=96), [1, 1, 1, 2, 3]),
        (SamplesPerInsert(0.5, 32, 16, error_buffer=48.0), [1, 4, 5, 6, 7]),
    ],
)
def test_it_is_known_beforehand_when_a_super_batch_is_needed(limit, expected):
    assert [limit.needed_at(number, 32) for number in range(1, 6)] == expected
    memory = bank(320, limit, max_times_sampled=99)
    taken = arrivals(memory, 13, super_batch_size=32, sub_batch_size=16)
    steps = [step for step, count in enumerate(taken, 1) for _ in range(count)]
    assert steps[:5] == expected


def test_the_minimum_comes_first_and_is_not_caught_up_with():
    sizes = {"super_batch_size": 32, "sub_batch_size": 16}
    for limit in (Lockstep(minimum=90), SamplesPerInsert(0.5, minimum=96, **sizes)):
        assert arrivals(bank(128, limit), 8, **sizes) == [3, 1, 1, 1, 1, 1, 1, 1]


def test_a_short_super_batch_does_not_stop_a_turn():
    sizes = {"super_batch_size": 16, "sub_batch_size": 16}
    # In step the turn gives what there is, and so does a bank that has no room for more.
    assert arrivals(bank(16, Lockstep(), super_batches=1), 4, **sizes, short=1) == [1] * 4
    one = bank(16, SamplesPerInsert(1.0, **sizes), super_batches=1)
    assert arrivals(one, 4, **sizes, short=1) == [1, 2, 1, 1]
    always_short = bank(16, SamplesPerInsert(1.0, **sizes), super_batches=1)
    for turn in range(20):
        taken = 0
        while always_short.wants(16):
            draw = torch.arange(15) + 100 * turn + 20 * taken
            always_short.add({"id": draw, "draw": draw}, torch.zeros(15))
            taken += 1
            assert taken < 5
        always_short.sample(min(16, len(always_short)))


def stuck(limit):
    """Whether after 40 arrived examples neither a draw of 16 nor an arrival of 40 may happen."""
    tally = Tally(inserted=40, arrived=1)
    return not limit.allows(tally, 16) and not limit.takes(tally, held=40)


def test_a_buffer_that_is_too_small_is_a_deadlock():
    """B 40, b 16, half a draw for each insert: an arrival brings 20, a draw takes 16, middle 18.

    After one arrival 20 are owed. A draw leaves 4 and an arrival 40, 14 and 22 from the middle.
    """
    sizes = {"super_batch_size": 40, "sub_batch_size": 16}
    assert not stuck(SamplesPerInsert(0.5, **sizes))
    for buffer in (10.0, 17.99):
        with pytest.raises(ConfigError, match=r"a deadlock; give at least half of their sum, 18"):
            SamplesPerInsert(0.5, **sizes, error_buffer=buffer)

    class Unchecked(SamplesPerInsert):
        def __post_init__(self):
            pass

    assert stuck(Unchecked(0.5, **sizes, error_buffer=10.0))
    assert not stuck(Unchecked(0.5, **sizes, error_buffer=14.0))  # here; one step later it is
    assert not stuck(SamplesPerInsert(0.5, **sizes, error_buffer=18.0))


def test_a_larger_buffer_lets_either_side_run_ahead():
    """B 32, b 16, ratio 0.5, buffer 48: owed may be from -32 to 64."""
    limit = SamplesPerInsert(0.5, super_batch_size=32, sub_batch_size=16, error_buffer=48.0)
    drawn = [limit.allows(Tally(inserted=32, sampled=16 * n), 16) for n in range(4)]
    assert drawn == [True, True, True, False]  # 3 draws leave 16 - 48 = -32
    taken = [limit.takes(Tally(inserted=32 * n), held=32) for n in range(6)]
    assert taken == [True, True, True, True, False, False]  # 4 bring 64


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted),
    uses=st.integers(1, 3),
    share=st.fractions(Fraction(1, 20), 1),
    extra=st.fractions(0, 50),
    minimum=st.integers(1, 60),
    room=st.integers(0, 100),
    removal=st.sampled_from(["oldest", "lowest"]),
    seed=st.integers(0, 10**6),
)
def test_nobody_ever_waits_for_both(sizes, uses, share, extra, minimum, room, removal, seed):
    """Two sides that act whenever they may, in any order, never stand still and keep the rate."""
    sub_batch_size, super_batch_size = sizes
    ratio = float(share * uses)
    numbers = {"super_batch_size": super_batch_size, "sub_batch_size": sub_batch_size}
    middle = (ratio * super_batch_size + sub_batch_size) / 2
    buffer = middle + 1e-3 + float(extra)
    limit = SamplesPerInsert(ratio, **numbers, minimum=minimum, error_buffer=buffer)
    capacity = max(super_batch_size, minimum) + room
    memory = bank(capacity, limit, removal=removal, max_times_sampled=uses)
    chance = random.Random(seed)
    inserted = sampled = 0
    for _ in range(80):
        may_draw, may_arrive = not memory.wants(sub_batch_size), memory.accepts()
        assert may_draw or may_arrive
        if may_draw and (not may_arrive or chance.random() < 0.5):
            count = min(sub_batch_size, len(memory))
            memory.sample(count)
            sampled += count
        else:
            draw = torch.arange(super_batch_size) + inserted
            scores = torch.rand(super_batch_size, generator=generator(inserted))
            memory.add({"id": draw, "draw": draw}, scores)
            inserted += super_batch_size
        # Never more draws than the rate and the buffer allow, whatever left the bank unused.
        counted = inserted - max(minimum - max(sub_batch_size / ratio, super_batch_size), 0)
        assert sampled == 0 or sampled <= ratio * counted + buffer - middle + 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SamplesPerInsert(0.0, super_batch_size=32, sub_batch_size=16),
            "nothing would ever be drawn; lockstep is 0.5",
        ),
        (
            lambda: bank(64, SamplesPerInsert(1.5, super_batch_size=32, sub_batch_size=16)),
            r"samples_per_insert is 1.5 .* max_times_sampled \(1\) times.*allow 2 times",
        ),
        (
            lambda: bank(64, Lockstep(minimum=65)),
            "65 examples must be in the memory bank before any is drawn and it holds 64",
        ),
        (
            lambda: bank(64, SamplesPerInsert(0.5, 32, 16, minimum=65)),
            "65 examples must be in the memory bank before any is drawn and it holds 64",
        ),
        (lambda: bank(8, SamplesPerInsert(0.5, 32, 16)), "16 examples must be .* holds 8"),
    ],
)
def test_what_could_never_be_drawn_is_refused_with_the_reason(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_waiting_for_newer_weights_has_an_end():
    memory = bank(4, Lockstep(), max_staleness=2)
    for _ in range(1000):
        assert memory.wants(2)
        memory.add({"id": torch.arange(4), "draw": torch.arange(4)}, torch.zeros(4), 5)
        memory.expire(9)
    with pytest.raises(ConfigError, match=r"1000 super-batches arrived .* max_staleness 2 steps"):
        memory.wants(2)
