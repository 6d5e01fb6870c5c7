import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from superbatch.errors import ConfigError, DataError
from superbatch.selection import (
    effective_sample_size,
    gumbel,
    importance_weights,
    kept_gain,
    rank_correlation,
    sample_indices,
    sample_weighted,
)


def indices_by_numpy(scores, size, temperature, seed):
    """Gumbel top-k from the bare Mersenne twister, in numpy alone."""
    bits = np.random.RandomState(seed).randint(0, 2**32, 2 * len(scores), dtype=np.uint64)
    high, low = bits[0::2], bits[1::2]
    uniform = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
    noise = -np.log(-np.log1p(-uniform))
    return np.sort(np.argsort(-(scores / temperature + noise))[:size])


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1, 20231208])
def test_indices_equal_a_numpy_script(seed, temperature):
    scores = np.random.default_rng(seed).normal(size=1000)
    ours = sample_indices(
        torch.from_numpy(scores),
        250,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
    )
    assert ours.tolist() == indices_by_numpy(scores, 250, temperature, seed).tolist()


def test_sets_are_drawn_without_replacement_from_the_softmax():
    # Worked by hand: p = (0.1, 0.2, 0.3, 0.4); the chance of {i, j} is the sum over both orders of
    # p_i * p_j / (1 - p_i).
    p = [0.1, 0.2, 0.3, 0.4]
    expected = {
        (i, j): p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        for i, j in itertools.combinations(range(4), 2)
    }
    assert expected[2, 3] == pytest.approx(0.3714, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor(p).log()
    draws = 20_000
    counts = dict.fromkeys(expected, 0)
    for _ in range(draws):
        counts[tuple(sample_indices(scores, 2, generator=generator).tolist())] += 1
    for pair, chance in expected.items():
        deviation = math.sqrt(draws * chance * (1 - chance))
        assert abs(counts[pair] - draws * chance) < 4 * deviation, pair


def test_temperature_0_takes_the_highest():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.4])
    assert sample_indices(scores, 2, temperature=0.0).tolist() == [2, 3]


def test_a_low_temperature_is_nearly_the_highest_and_a_high_one_nearly_uniform():
    scores = torch.linspace(0, 1, 100)
    generator = torch.Generator().manual_seed(0)
    cold = sample_indices(scores, 50, temperature=1e-4, generator=generator)
    assert cold.tolist() == list(range(50, 100))
    hot = torch.stack(
        [sample_indices(scores, 50, temperature=1e4, generator=generator) for _ in range(200)]
    )
    assert hot.double().mean() == pytest.approx(49.5, abs=1.0)


@given(st.integers(1, 60), st.data())
def test_indices_are_distinct_ascending_and_as_many_as_asked(count, data):
    size = data.draw(st.integers(1, count))
    temperature = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
    scores = torch.tensor(
        data.draw(st.lists(st.floats(-1e30, 1e30), min_size=count, max_size=count))
    )
    chosen = sample_indices(scores, size, temperature=temperature).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == size
    assert all(0 <= index < count for index in chosen)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_not_finite_are_never_chosen(temperature):
    scores = torch.tensor([math.nan, 1.0, math.inf, 0.0, -math.inf, 2.0])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        chosen = sample_indices(scores, 3, temperature=temperature, generator=generator)
        assert chosen.tolist() == [1, 3, 5]


def test_more_than_the_finite_is_an_error_with_both_counts():
    scores = torch.tensor([math.nan, 1.0, 2.0])
    with pytest.raises(DataError, match="3 examples are wanted and only 2 of 3"):
        sample_indices(scores, 3)


@pytest.mark.parametrize("size", [0, 4])
def test_sizes_outside_the_super_batch_are_refused(size):
    with pytest.raises(ConfigError, match=f"cannot choose {size} of 3"):
        sample_indices(torch.zeros(3), size)


@pytest.mark.parametrize("temperature", [-1.0, math.nan])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ConfigError, match="temperature must be 0"):
        sample_indices(torch.zeros(3), 1, temperature=temperature)


def test_temperatures_too_near_0_are_refused_and_the_least_is_not():
    scores = torch.tensor([0.0, 3.0, -2.0, 1.0])
    with pytest.raises(ConfigError, match="temperature 1e-39 is too near 0 to divide by"):
        sample_indices(scores, 2, temperature=1e-39)
    assert sample_indices(scores, 2, temperature=1e-30).tolist() == [1, 3]


def test_scores_in_two_dimensions_are_refused(unchecked):
    with pytest.raises(DataError, match=r"one number an example, and these are \(4, 1\); give"):
        sample_indices(torch.zeros(4, 1), 2)


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    sample_indices(torch.zeros(100), 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_effective_sample_size_by_hand():
    # p = (3/4, 1/4): 1 / (9/16 + 1/16) = 1.6
    assert float(effective_sample_size(torch.tensor([math.log(3.0), 0.0]))) == pytest.approx(1.6)
    assert float(effective_sample_size(torch.zeros(64))) == pytest.approx(64)
    assert float(effective_sample_size(torch.tensor([0.0, 100.0]))) == pytest.approx(1)
    # Twice the temperature: p = (sqrt 3, 1) / (1 + sqrt 3); 1 / sum p^2 = (1 + sqrt 3)^2 / 4
    warm = effective_sample_size(torch.tensor([math.log(3.0), 0.0]), temperature=2.0)
    assert float(warm) == pytest.approx((1 + math.sqrt(3)) ** 2 / 4)
    assert float(effective_sample_size(torch.tensor([1.0, 1.0, 0.0]), temperature=0.0)) == 2


def test_kept_gain_by_hand():
    # mean of all 0.5, deviation 0.5, mean of the chosen 1: (1 - 0.5) / 0.5
    scores = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert float(kept_gain(scores, torch.tensor([2, 3]))) == pytest.approx(1.0)
    assert float(kept_gain(scores, torch.tensor([0, 2]))) == pytest.approx(0.0)
    assert float(kept_gain(torch.zeros(4), torch.tensor([0, 1]))) == 0.0
    assert float(kept_gain(torch.full((4,), torch.nan), torch.tensor([0, 1]))) == 0.0


@pytest.mark.parametrize("constant", [0.1, 2.302585, -0.3, 20.7])
def test_the_same_score_for_all_gains_nothing_whatever_its_sum_rounds_to(constant):
    scores = torch.full((1000,), constant)
    assert float(kept_gain(scores, torch.arange(500))) == 0.0


def test_a_gain_that_rounding_would_swallow():
    """Halves of 20 and the next number of fp32, 2 ** -19 above: the best are one deviation up."""
    scores = torch.full((1000,), 20.0)
    scores[500:] += 2**-19
    assert float(kept_gain(scores, torch.arange(500, 1000))) == pytest.approx(1.0)


def test_rank_correlation_is_spearmans():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 8, (2, 40)).astype(float)  # with many ties
    expected = scipy.stats.spearmanr(first, second).statistic
    measured = rank_correlation(torch.from_numpy(first).float(), torch.from_numpy(second).float())
    assert measured == pytest.approx(expected, abs=1e-6)
    up = torch.tensor([0.1, 0.5, 9.0])
    assert rank_correlation(up, up.exp()) == pytest.approx(1.0)
    assert rank_correlation(up, -up) == pytest.approx(-1.0)
    assert rank_correlation(up, torch.zeros(3)) == 0.0


def test_a_weighted_draw_is_the_plain_draw():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(3))
    plain = sample_indices(scores, 20, generator=torch.Generator().manual_seed(7))
    index, log_inclusion = sample_weighted(scores, 20, generator=torch.Generator().manual_seed(7))
    assert torch.equal(index, plain)
    assert (log_inclusion < 0).all()


def test_inclusion_is_the_formula_worked_by_numpy():
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    noise = gumbel(5, torch.Generator().manual_seed(1)).double().numpy()
    perturbed = scores.double().numpy() / 0.5 + noise
    order = np.argsort(-perturbed)
    chosen, kappa = np.sort(order[:2]), perturbed[order[2]]
    expected = 1 - np.exp(-np.exp(scores.numpy()[chosen] / 0.5 - kappa))
    index, log_inclusion = sample_weighted(
        scores, 2, temperature=0.5, generator=torch.Generator().manual_seed(1)
    )
    assert index.tolist() == chosen.tolist()
    assert log_inclusion.exp().numpy() == pytest.approx(expected, rel=1e-5)


def test_weighted_means_are_unbiased():
    # Values that rise with the scores: unweighted means of the drawn are far too high.
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(60, generator=random)
    values = scores + torch.randn(60, generator=random)
    draws = torch.Generator().manual_seed(1)
    weighted, plain = [], []
    for _ in range(4000):
        index, log_inclusion = sample_weighted(scores, 20, generator=draws)
        weight = importance_weights(log_inclusion, 60, exponent=1.0)
        weighted.append(float((weight * values[index]).mean()))
        plain.append(float(values[index].mean()))
    error = np.std(weighted) / math.sqrt(len(weighted))
    assert error < 0.01
    assert abs(np.mean(weighted) - float(values.mean())) < 4 * error
    assert np.mean(plain) - float(values.mean()) > 40 * error


def test_weights_by_hand():
    # q = 1/2 and 1/4 of 8 examples, 2 drawn: 2 / (8 q) = 1/2 and 1.
    log_inclusion = torch.tensor([0.5, 0.25]).log()
    assert importance_weights(log_inclusion, 8, exponent=1.0).tolist() == pytest.approx([0.5, 1.0])
    half = importance_weights(log_inclusion, 8, exponent=0.5)
    assert half.tolist() == pytest.approx([math.sqrt(0.5), 1.0])
    assert importance_weights(log_inclusion, 8, exponent=0.0).tolist() == [1.0, 1.0]


def test_all_are_certain_where_all_are_drawn():
    index, log_inclusion = sample_weighted(torch.tensor([0.0, math.nan, 3.0]), 2)
    assert index.tolist() == [0, 2]
    assert log_inclusion.tolist() == [0.0, 0.0]


def test_certain_choices_have_no_importance_weights():
    with pytest.raises(ConfigError, match="temperature 0 takes the highest scores for certain"):
        sample_weighted(torch.zeros(3), 1, temperature=0.0)


def test_rare_draws_have_the_weights_of_prioritised_replay():
    # Few of many are drawn nearly with replacement, q = b p. These are what torchrl 0.14.1's
    # PrioritizedSampler(5, alpha=1, beta=0.4, eps=0) gives for priorities 1, 2, 4, 8, 5; it divides
    # by the weight of the smallest.
    theirs = [1.0, 0.7578582763671875, 0.5743491649627686, 0.43527528643608093, 0.5253055691719055]
    p = torch.tensor([1.0, 2.0, 4.0, 8.0, 5.0]) / 20
    weights = importance_weights((5 * p).log(), 5, exponent=0.4)
    assert (weights / weights[0]).tolist() == pytest.approx(theirs, abs=1e-6)
    # And that is what q is: of 20,000 examples like these five, 40 are drawn.
    scores = p.log().repeat(4000)
    index, log_inclusion = sample_weighted(scores, 40, generator=torch.Generator().manual_seed(0))
    ratio = log_inclusion.exp() / p[index % 5]
    assert ratio.std() / ratio.mean() < 0.01
