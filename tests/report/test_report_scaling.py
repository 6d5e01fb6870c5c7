import numpy as np
import pytest

from superbatch.report.scaling import fit_power_law


def test_a_law_without_noise_is_found_again():
    # accuracy = 0.9 - 40 x^-0.5: at 1 600 updates 0.9 - 1 = -0.1, at 6 400 0.4, at 25 600 0.65.
    budgets = np.array([1600.0, 6400.0, 25600.0, 102400.0])
    law = fit_power_law(budgets, np.array([-0.1, 0.4, 0.65, 0.775]))
    assert law.offset.mean == pytest.approx(0.9, abs=1e-6)
    assert law.exponent.mean == pytest.approx(0.5, abs=1e-6)
    # The factor is at the geometric mean of the budgets, 12 800: 40 / sqrt(12 800) = 0.353553.
    assert law.scale == pytest.approx(12800)
    assert law.factor.mean == pytest.approx(-0.3535534, abs=1e-6)
    np.testing.assert_allclose(law.at(np.array([409600.0])), [0.8375], atol=1e-6)
    assert law.offset.low == pytest.approx(0.9, abs=1e-4)


def test_a_falling_loss_has_a_positive_factor():
    # loss = 1 + 8 / x
    law = fit_power_law(np.array([1.0, 2.0, 4.0, 8.0]), np.array([9.0, 5.0, 3.0, 2.0]))
    assert law.offset.mean == pytest.approx(1, abs=1e-5)
    assert law.exponent.mean == pytest.approx(1, abs=1e-5)
    assert law.factor.mean > 0


def test_intervals_are_those_of_students_t_with_three_parameters_fewer_than_points():
    """Gauss-Newton with the derivatives worked out on paper, and the t of a printed table."""
    x = np.array([1000.0, 2000.0, 4000.0, 8000.0, 16000.0])
    noise = np.array([0.004, -0.006, 0.001, 0.005, -0.003])
    y = 0.9 - 8 * x**-0.5 + noise
    # In units of the geometric mean, 4000: budgets are 1/4, 1/2, 1, 2 and 4.
    u = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    parameters = np.array([0.9, -0.12, 0.5])  # offset, factor, exponent
    for _ in range(50):
        _, factor, exponent = parameters
        power = u**-exponent
        # y = offset + factor u^-exponent by each of the three
        jacobian = np.stack([np.ones(5), power, -factor * power * np.log(u)], axis=1)
        residual = y - (parameters[0] + factor * power)
        parameters = parameters + np.linalg.solve(jacobian.T @ jacobian, jacobian.T @ residual)
    variance = (residual @ residual) / 2 * np.diag(np.linalg.inv(jacobian.T @ jacobian))
    half = 4.302653 * np.sqrt(variance)
    law = fit_power_law(x, y)
    found = (law.offset, law.factor, law.exponent)
    assert [one.mean for one in found] == pytest.approx(parameters.tolist(), rel=1e-4)
    assert [one.low for one in found] == pytest.approx((parameters - half).tolist(), rel=1e-3)
    assert [one.high for one in found] == pytest.approx((parameters + half).tolist(), rel=1e-3)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    x = np.repeat([1e3, 2e3, 4e3, 8e3, 16e3], 3)
    truth = 0.9 - 8 * x**-0.5
    held = 0
    for _ in range(100):
        law = fit_power_law(x, truth + 0.003 * random.normal(size=len(x)))
        held += law.offset.low <= 0.9 <= law.offset.high
    assert 88 <= held <= 100


@pytest.mark.parametrize(
    "reached",
    [
        [0.5, 0.5, 0.5, 0.5],  # any exponent will do where the factor is 0
        [0.5, 0.55, 0.6, 0.65],  # as much for every doubling: a logarithm tends to nothing
        [0.1, 0.2, 0.4, 0.8],  # nor does a straight line
        [0.5, 0.4, 0.5, 0.4],
    ],
)
def test_budgets_that_determine_no_law_have_none(reached):
    assert fit_power_law(np.array([100.0, 200.0, 400.0, 800.0]), np.array(reached)) is None


def test_a_law_that_only_rounding_determines_has_no_interval():
    # Budgets alike to one part in 1e8: offset and factor do the same but for the last digits.
    budgets = 1e8 + np.arange(5.0)
    law = fit_power_law(budgets, np.array([0.5, 0.6, 0.65, 0.675, 0.6875]))
    assert law is None or law.offset.low is None


def test_too_few_budgets_have_no_law_and_three_have_no_interval():
    assert fit_power_law(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 2.1])) is None
    law = fit_power_law(np.array([1.0, 2.0, 4.0]), np.array([9.0, 5.0, 3.0]))
    assert law.offset.mean == pytest.approx(1, abs=1e-4)
    assert law.offset.low is None
