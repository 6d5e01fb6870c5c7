import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from superbatch.errors import ConfigError, DataError
from superbatch.evaluation import evaluate_linear_probe, labelled_batches
from superbatch.sources import open_examples, split_rows


class Pixels(nn.Module):
    """An image's embedding is its first channel, times ``scale``."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(0.5)

    def encode_image(self, image):
        return self.dropout(self.scale * image[:, 0].flatten(1))


def digits_split(seed=0):
    digits = open_examples("digits")
    splits = split_rows(len(digits), evaluation_fraction=0.3, holdout_fraction=0.0, seed=seed)
    return digits, splits.pool[:400], splits.evaluation


def by_scikit_learn(fit, evaluation, strength):
    """Pixels as scikit-learn ships them, standardised by hand."""
    pixels, labels = load_digits(return_X_y=True)
    mean, deviation = pixels[fit].mean(axis=0), pixels[fit].std(axis=0)
    pixels = (pixels - mean) / np.where(deviation > 0, deviation, 1)
    probe = LogisticRegression(C=strength, max_iter=1000).fit(pixels[fit], labels[fit])
    return probe.score(pixels[evaluation], labels[evaluation])


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_the_accuracy_on_digits_is_scikit_learns(strength):
    digits, fit, evaluation = digits_split()
    assert np.array_equal(digits.ids, np.arange(len(digits)))
    result = evaluate_linear_probe(
        Pixels().train(),
        labelled_batches(digits, fit, batch_size=150),
        labelled_batches(digits, evaluation),
        inverse_regularisation=strength,
    )
    expected = by_scikit_learn(fit, evaluation, strength)
    assert result.top1 == pytest.approx(expected, abs=2 / len(evaluation))
    assert 0.7 < result.top1 < 0.99
    assert (result.fit, result.examples) == (400, len(evaluation))
    assert result.metrics() == {"val/linear_probe_top1": result.top1}


def test_the_scale_of_embeddings_does_not_matter():
    digits, fit, evaluation = digits_split()
    one, other = (
        evaluate_linear_probe(
            Pixels(scale), labelled_batches(digits, fit), labelled_batches(digits, evaluation)
        )
        for scale in (1.0, 100.0)
    )
    assert one.top1 == pytest.approx(other.top1, abs=2 / len(evaluation))


def test_the_probe_sees_nothing_of_the_evaluation_part():
    # Labels of the evaluation part are all wrong: a probe that saw them would be right.
    def batch(labels):
        image = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2) * 20
        return {"image": image, "label": torch.tensor(labels)}

    low_first = [0] * 5 + [1] * 5
    fit, wrong = batch(low_first), batch(low_first[::-1])
    assert evaluate_linear_probe(Pixels(), [fit], [fit]).top1 == 1.0
    assert evaluate_linear_probe(Pixels(), [fit], [wrong]).top1 == 0.0


def test_what_cannot_be_fit_is_refused():
    digits, fit, _ = digits_split()
    whole = list(labelled_batches(digits, fit))
    ones = fit[digits.labels[fit] == 1][:3]
    with pytest.raises(DataError, match=r"all 3 examples .* are of one class"):
        evaluate_linear_probe(Pixels(), labelled_batches(digits, ones), whole)
    with pytest.raises(DataError, match="not one example"):
        evaluate_linear_probe(Pixels(), whole, [])
    with pytest.raises(DataError, match="not finite"):
        evaluate_linear_probe(Pixels(float("inf")), whole, whole)
    with pytest.raises(ConfigError, match="inverse_regularisation is 0"):
        evaluate_linear_probe(Pixels(), whole, whole, inverse_regularisation=0.0)
