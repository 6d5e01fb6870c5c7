"""Captions moved on purpose."""

import numpy as np
import pytest

from superbatch.errors import ConfigError
from superbatch.sources.captions import moved_captions


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 1.0])
def test_so_many_captions_are_of_another_image(fraction):
    image_ids = np.repeat(np.arange(200), 5)
    rows = moved_captions(image_ids, fraction, seed=3)
    assert sorted(rows) == list(range(1000))
    assert (image_ids[rows] != image_ids).sum() == round(fraction * 1000)
    assert (rows != np.arange(1000)).sum() == round(fraction * 1000)
    assert (moved_captions(image_ids, fraction, seed=3) == rows).all()
    if fraction:
        assert (moved_captions(image_ids, fraction, seed=4) != rows).any()


def test_half_of_the_captions_of_one_image_is_the_most_that_can_move():
    for seed in range(20):
        images = np.array([0, 0, 0, 1, 2, 3])
        assert (images[moved_captions(images, 1.0, seed=seed)] != images).all()
    with pytest.raises(ConfigError, match=r"1.0 moves 6 captions, and 4 of them are of one image"):
        moved_captions(np.array([0, 0, 0, 0, 1, 2]), 1.0, seed=0)
    with pytest.raises(ConfigError, match=r"--data.caption-noise is 1.5; it is a share"):
        moved_captions(np.arange(4), 1.5, seed=0)


def test_every_derangement_of_three_is_as_likely_as_the_other():
    rows = [tuple(moved_captions(np.arange(3), 1.0, seed=seed)) for seed in range(400)]
    assert set(rows) == {(1, 2, 0), (2, 0, 1)}
    assert 140 < rows.count((1, 2, 0)) < 260  # 200 and six standard deviations of 10
