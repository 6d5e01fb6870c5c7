import numpy as np

from superbatch.sources import open_examples, split_rows
from superbatch.sources.noise import with_label_noise


def test_exactly_so_many_labels_are_another_class_and_the_truth_is_kept():
    digits = open_examples("digits")
    noisy = with_label_noise(digits, 0.4, seed=1)
    assert (noisy.labels != digits.labels).sum() == round(0.4 * 1797)
    assert noisy.labels.min() >= 0
    assert noisy.labels.max() <= 9
    rows = np.array([5, 1000, 3])
    batch = noisy.read(rows)
    assert batch["label"].tolist() == noisy.labels[rows].tolist()
    assert batch["truth"].tolist() == digits.labels[rows].tolist()
    assert batch["id"].tolist() == rows.tolist()


def test_the_other_classes_are_equally_likely():
    digits = open_examples("digits")
    shift = (with_label_noise(digits, 0.9, seed=0).labels - digits.labels) % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == 1797 - round(0.9 * 1797)
    expected = round(0.9 * 1797) / 9
    chi_square = ((counts[1:] - expected) ** 2 / expected).sum()
    assert chi_square < 26.1  # 8 degrees of freedom, one chance in a thousand


def test_the_seed_decides():
    digits = open_examples("digits")
    one, two = (with_label_noise(digits, 0.4, seed=seed).labels for seed in (1, 2))
    assert (with_label_noise(digits, 0.4, seed=1).labels == one).all()
    assert (one != two).any()
    assert (digits.labels == open_examples("digits").labels).all()  # the source is left alone


def test_evaluation_rows_stay_whatever_is_held_out():
    none = split_rows(1797, evaluation_fraction=0.2, holdout_fraction=0.0, seed=0)
    half = split_rows(1797, evaluation_fraction=0.2, holdout_fraction=0.5, seed=0)
    assert none.evaluation.tolist() == half.evaluation.tolist()
