"""Pool, holdout and evaluation."""

import numpy as np
import pytest

from superbatch.errors import ConfigError
from superbatch.sources import permuted, split_rows


def test_every_row_is_in_one_part():
    splits = split_rows(1797, evaluation_fraction=0.2, holdout_fraction=0.5, seed=0)
    # 0.2 * 1797 = 359.4; 1797 - 359 = 1438; half of it is 719.
    assert [len(part) for part in (splits.evaluation, splits.holdout, splits.pool)] == [
        359,
        719,
        719,
    ]
    rows = np.concatenate([splits.pool, splits.holdout, splits.evaluation])
    assert sorted(rows.tolist()) == list(range(1797))
    assert all((np.diff(part) > 0).all() for part in (splits.pool, splits.holdout))


def test_the_holdout_does_not_move_the_evaluation_part():
    few, many = (
        split_rows(100, evaluation_fraction=0.3, holdout_fraction=share, seed=4)
        for share in (0.0, 0.9)
    )
    assert few.evaluation.tolist() == many.evaluation.tolist()
    assert len(few.holdout) == 0
    assert sorted(permuted(np.arange(30), length=100, seed=4).tolist()) == few.evaluation.tolist()


def test_another_seed_is_another_split():
    first, second = (
        split_rows(100, evaluation_fraction=0.5, holdout_fraction=0.0, seed=seed) for seed in (0, 1)
    )
    assert first.evaluation.tolist() != second.evaluation.tolist()


@pytest.mark.parametrize(
    ("evaluation", "holdout", "message"),
    [
        (
            0.01,
            0.0,
            "the evaluation part would be empty: 10 examples with evaluation_fraction 0.01",
        ),
        (0.0, 0.01, "the holdout would be empty: 10 examples .* holdout_fraction 0.01"),
        (0.0, 0.99, "the pool to train on would be empty: 10 examples .* holdout_fraction 0.99"),
        (1.0, 0.0, r"evaluation_fraction is 1.0; it must be in \[0, 1\)"),
        (0.0, -0.1, r"holdout_fraction is -0.1; it must be in \[0, 1\)"),
    ],
)
def test_a_part_that_would_be_empty_is_refused(evaluation, holdout, message):
    with pytest.raises(ConfigError, match=message):
        split_rows(10, evaluation_fraction=evaluation, holdout_fraction=holdout, seed=0)
