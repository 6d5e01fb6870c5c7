"""Augmentation by draw."""

import pickle

import pytest
import torch
from torch.nn.functional import pad

from superbatch.errors import ConfigError, DataError
from superbatch.sources import augmentation, plain
from superbatch.types import take


def batch_of(count, side=6, channels=3, first=0):
    image = torch.randint(
        0,
        256,
        (count, channels, side, side),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    return {
        "id": torch.arange(count),
        "draw": torch.arange(first, first + count),
        "image": image,
        "label": torch.zeros(count, dtype=torch.int64),
    }


VIEWS = {
    "flip": {"flip": True, "crop_padding": 0, "rand_augment": False},
    "crop": {"flip": False, "crop_padding": 2, "rand_augment": False},
    "all": {"flip": True, "crop_padding": 2, "rand_augment": True},
}


@pytest.mark.parametrize("name", VIEWS)
def test_any_rows_in_any_order_look_the_same(name):
    view = augmentation(**VIEWS[name], seed=3)
    batch = batch_of(12)
    whole = view(batch)
    index = torch.tensor([7, 2, 11])
    assert torch.equal(view(take(batch, index))["image"], whole["image"][index])
    assert not torch.equal(whole["image"], batch["image"])
    later = view({**batch, "draw": batch["draw"] + 12})
    assert not torch.equal(later["image"], whole["image"])
    other = augmentation(**VIEWS[name], seed=4)(batch)
    assert not torch.equal(other["image"], whole["image"])
    assert all(torch.equal(whole[field], batch[field]) for field in ("id", "draw", "label"))


def test_flip_mirrors_about_half():
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    batch = {**batch_of(2000, side=2, channels=1), "image": image.expand(2000, 1, 2, 2)}
    seen = augmentation(flip=True, crop_padding=0, rand_augment=False, seed=0)(batch)["image"]
    mirrored = (seen == torch.tensor([[2, 1], [4, 3]])).all(dim=(1, 2, 3))
    assert ((seen == image).all(dim=(1, 2, 3)) ^ mirrored).all()
    assert 900 < int(mirrored.sum()) < 1100


def test_crops_are_windows_of_the_reflected_image_and_all_of_them_come():
    batch = batch_of(500, side=4)
    view = augmentation(flip=False, crop_padding=1, rand_augment=False, seed=0)
    seen = view(batch)["image"]
    # torch's own reflection, window by window: 3 x 3 places.
    padded = pad(batch["image"].float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    places = torch.stack(
        [
            (padded[:, :, y : y + 4, x : x + 4] == seen).all(dim=(1, 2, 3))
            for y in range(3)
            for x in range(3)
        ]
    )
    assert (places.sum(0) == 1).all()
    assert places.sum(1).min() > 25  # 500 / 9 = 56 expected


def test_crop_and_flip_together_are_one_after_the_other():
    batch = batch_of(50, side=4)
    both, crop = (
        augmentation(flip=flip, crop_padding=1, rand_augment=False, seed=0)(batch)["image"]
        for flip in (True, False)
    )
    same = (both == crop).all(dim=(1, 2, 3))
    assert (same | (both == crop.flip(3)).all(dim=(1, 2, 3))).all()
    assert 10 < int(same.sum()) < 40


def test_rand_augment_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    augmentation(flip=False, crop_padding=0, rand_augment=True, seed=0)(batch_of(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_asked_is_nothing_done():
    assert augmentation(flip=False, crop_padding=0, rand_augment=False, seed=0) is plain
    batch = {"id": torch.arange(2)}
    assert plain(batch) is batch


def test_an_empty_batch_stays_empty():
    view = augmentation(**VIEWS["all"], seed=3)
    assert view(batch_of(0))["image"].shape == (0, 3, 6, 6)


def test_a_view_travels_to_another_process():
    view = augmentation(**VIEWS["crop"], seed=3)
    assert torch.equal(
        pickle.loads(pickle.dumps(view))(batch_of(4))["image"], view(batch_of(4))["image"]
    )


def test_a_batch_without_draws_is_refused():
    batch = batch_of(2)
    del batch["draw"]
    view = augmentation(flip=True, crop_padding=0, rand_augment=False, seed=0)
    with pytest.raises(DataError, match="only the fields id, image, label; read it from a Stream"):
        view(batch)


def test_padding_as_large_as_the_image_is_refused():
    view = augmentation(flip=False, crop_padding=6, rand_augment=False, seed=0)
    with pytest.raises(ConfigError, match="crop_padding is 6 and images are 6x6 pixels"):
        view(batch_of(2))
