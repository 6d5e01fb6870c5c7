"""The keyed permutation and the counter-based hash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from superbatch.sources import permuted, random_bits


@given(length=st.integers(1, 3000), seed=st.integers(0, 2**63))
@settings(max_examples=60, deadline=None)
def test_every_value_comes_once(length, seed):
    values = permuted(np.arange(length), length=length, seed=seed)
    assert sorted(values.tolist()) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 255, 256, 257, 65_536, 131_073])
def test_every_value_comes_once_at_the_edges(length):
    values = permuted(np.arange(length), length=length, seed=1)
    assert np.bincount(values, minlength=length).tolist() == [1] * length


def test_a_part_is_the_part_of_the_whole():
    whole = permuted(np.arange(1797), length=1797, seed=5)
    some = np.array([1796, 3, 3, 900])
    assert permuted(some, length=1797, seed=5).tolist() == whole[some].tolist()
    assert permuted(np.arange(0), length=1797, seed=5).shape == (0,)


def test_the_longest_lengths_stay_in_range():
    values = permuted(np.arange(10_000), length=2**61 + 1, seed=0)
    assert values.min() >= 0
    assert values.max() <= 2**61
    assert len(set(values.tolist())) == 10_000


def test_another_seed_is_another_permutation():
    first, second = (permuted(np.arange(1000), length=1000, seed=seed) for seed in (0, 1))
    # Two independent permutations agree in one place on average.
    assert (first == second).sum() < 10


@pytest.mark.usefixtures("unchecked")  # thousands of calls
@pytest.mark.parametrize("length", [5, 10, 30])
def test_every_pair_of_neighbours_is_as_likely_as_any_other(length):
    orders = np.stack([permuted(np.arange(length), length=length, seed=s) for s in range(3000)])
    for position in (0, length - 2):
        pairs = orders[:, position] * length + orders[:, position + 1]
        counts = np.bincount(pairs, minlength=length**2).reshape(length, length)
        assert np.diag(counts).sum() == 0
        apart = counts[~np.eye(length, dtype=bool)]
        assert stats.chisquare(apart).pvalue > 1e-4


@pytest.mark.parametrize("length", [45_000, 10**9])
def test_neighbours_do_not_resemble_each_other(length):
    values = permuted(np.arange(40_000), length=length, seed=2) / length
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    assert stats.kstest((values[1:] - values[:-1]) % 1, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(40_000)


def test_random_bits_are_splitmix64():
    # Written with Python's own integers; splitmix64 of state 0 begins with 0xE220A8397B1DCDAF.
    def splitmix(state):
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    golden = 0x9E3779B97F4A7C15
    assert splitmix(golden) == 0xE220A8397B1DCDAF
    start = splitmix((splitmix(7) + 2 * golden) % 2**64)
    expected = [splitmix((start + draw * golden) % 2**64) for draw in (0, 1, 10**12)]
    assert random_bits(7, np.array([0, 1, 10**12]), 2).tolist() == expected


def test_every_bit_is_fair_and_streams_differ():
    bits = random_bits(3, np.arange(20_000), 1)
    shares = [float((bits >> np.uint64(bit) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 5 * 0.5 / np.sqrt(20_000)
    assert not (bits == random_bits(3, np.arange(20_000), 2)).any()
    assert not (bits == random_bits(4, np.arange(20_000), 1)).any()
