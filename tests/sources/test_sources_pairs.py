"""Pairs of images and captions, from tar shards to batches."""

import io
import json
import tarfile
from itertools import islice

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from superbatch.errors import ConfigError, DataError
from superbatch.sources import PairExamples, Stream, augmentation, open_pairs, split_pairs
from superbatch.sources.duplicates import duplicates
from superbatch.sources.stream import Readable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))


def png(value, size=(4, 4)):
    """An image of one colour, exactly."""
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


def write(path, samples):
    """A shard of (image, captions) by key; an image that is no number is written as it is."""
    with tarfile.open(path, "w") as tar:
        for key, (image, captions) in samples.items():
            content = png(image) if isinstance(image, int) else image
            words = json.dumps({"captions": captions}).encode()
            for name, member in ((f"{key}.png", content), (f"{key}.json", words)):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return str(path)


def many(path, count=40, broken=()):
    """``count`` images with two captions each; pixel value and captions tell the number."""
    samples = {
        f"{number:03}": (
            b"junk %d" % number if number in broken else number,
            [f"photo {number}", f"picture {number}"],
        )
        for number in range(count)
    }
    return write(path, samples)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


SAMPLES = {"x": (10, ["a dog", "the dog"]), "y": (20, ["a cat"]), "z": (10, ["one more dog"])}


@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
def test_every_caption_is_a_pair(tmp_path, memory_gb):
    pairs = open_pairs(write(tmp_path / "a.tar", SAMPLES), context=6, memory_gb=memory_gb)
    assert isinstance(pairs, PairExamples)
    assert isinstance(pairs, Readable)
    assert (len(pairs), pairs.image_shape, pairs.vocabulary) == (4, (3, 4, 4), 49_408)
    assert pairs.ids.tolist() == [0, 1, 2, 3]
    assert pairs.image_ids.tolist() == pairs.caption_of.tolist() == [0, 0, 1, 0]  # z is x again
    assert pairs.captions == ["a dog", "the dog", "a cat", "one more dog"]
    batch = pairs.read(np.array([3, 2, 0, 0]))
    assert {name: field.dtype for name, field in batch.items()} == {
        "id": torch.int64,
        "image": torch.uint8,
        "text": torch.int64,
        "image_id": torch.int64,
        "caption_of": torch.int64,
    }
    assert batch["id"].tolist() == [3, 2, 0, 0]
    assert batch["image"].shape == (4, 3, 4, 4)
    assert batch["image"].float().mean(dim=(1, 2, 3)).tolist() == [10, 20, 10, 10]
    assert batch["image_id"].tolist() == batch["caption_of"].tolist() == [0, 1, 0, 0]
    # CLIP's tokens of "a", "cat" and "dog" between start and end, as in its own examples.
    assert batch["text"][1:3].tolist() == [
        [49406, 320, 2368, 49407, 0, 0],
        [49406, 320, 1929, 49407, 0, 0],
    ]
    assert (pairs.skipped, pairs.skipped_pairs, pairs.cut_captions) == (frozenset(), {}, 0)


def test_captions_that_are_too_long_are_cut_and_counted(tmp_path):
    pairs = open_pairs(write(tmp_path / "a.tar", SAMPLES), context=4)
    assert pairs.cut_captions == 1
    assert pairs.read(np.array([2, 3]))["text"][:, [0, 3]].tolist() == [[49406, 49407]] * 2
    with pytest.raises(ConfigError, match=r"--data.context is 2"):
        open_pairs(str(tmp_path / "a.tar"), context=2)


def test_what_is_kept_in_memory_is_what_would_be_read(tmp_path):
    path = many(tmp_path / "a.tar", 120, broken={7})
    kept, read = (open_pairs(path, context=8, memory_gb=gb, caption_noise=0.3) for gb in (1.0, 0.0))
    assert kept.fingerprint == read.fingerprint
    rows = np.random.default_rng(0).permutation(240)
    assert equal(kept.read(rows), read.read(rows))
    assert kept.skipped == read.skipped == {14, 15}
    assert kept.skipped_pairs == {"pair whose image cannot be decoded": 2}
    assert len(kept) == len(read) == 240
    assert 14 not in kept.read(rows)["id"]
    # 120 images of 4 x 4 x 3 bytes are 5,760 bytes; what does not fit is not kept.
    assert equal(open_pairs(path, context=8, memory_gb=5.7e-6).read(rows[:9]), kept_clean(path, 9))


def kept_clean(path, count):
    rows = np.random.default_rng(0).permutation(240)[:count]
    return open_pairs(path, context=8).read(rows)


def test_progress_is_told_of_images(tmp_path):
    told = []
    path = many(tmp_path / "a.tar", 6)
    open_pairs(path, context=8, progress=lambda done, total: told.append((done, total)))
    assert told == [(6, 6)]


@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
def test_too_many_broken_images_are_refused_by_name(tmp_path, memory_gb):
    path = many(tmp_path / "a.tar", 50, broken={7, 20})
    message = r"2 of 50 images .* \(4.0%, the limit is 1%\), such as those of a.tar/007.png, a.tar"
    with pytest.raises(DataError, match=message):
        open_pairs(path, context=8, memory_gb=memory_gb).read(np.arange(100))


def test_images_of_several_sizes(tmp_path):
    samples = {"x": (png(9), ["a"]), "y": (png(9, size=(6, 5)), ["b"])}
    path = write(tmp_path / "a.tar", samples)
    with pytest.raises(
        DataError, match=r"the first is 4x4 pixels and a.tar/y.png is 5x6; set --data.image-size"
    ):
        open_pairs(path, context=8)
    assert open_pairs(path, context=8, image_size=2).image_shape == (3, 2, 2)


def test_ids_stay_when_shards_are_added_at_the_end(tmp_path):
    many(tmp_path / "a-0.tar", 3)
    before = open_pairs(str(tmp_path), context=8)
    write(tmp_path / "a-1.tar", SAMPLES | {"again": (0, ["zero again"])})
    after = open_pairs(str(tmp_path), context=8)
    pattern = open_pairs(f"{tmp_path}/a-{{0..1}}.tar", context=8)
    assert equal(after.read(np.arange(6)), before.read(np.arange(6)))
    assert after.ids.tolist() == list(range(11))
    assert after.image_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 3, 0]
    assert after.captions[6:8] == ["a dog", "the dog"]
    assert equal(after.read(np.arange(11)), pattern.read(np.arange(11)))
    assert after.fingerprint == pattern.fingerprint != before.fingerprint


def test_fingerprints_tell_sets_apart(tmp_path):
    path = many(tmp_path / "a.tar")
    settings = [
        {"context": 8},
        {"context": 9},
        {"context": 8, "image_size": 2},
        {"context": 8, "caption_noise": 0.5},
        {"context": 8, "caption_noise": 0.5, "noise_seed": 1},
    ]
    prints = {open_pairs(path, **each).fingerprint for each in settings}
    assert len(prints) == 5
    assert open_pairs(path, context=8).fingerprint in prints
    other = {"x": (10, ["a dog", "the dot"]), **dict(list(SAMPLES.items())[1:])}
    first, second = (
        open_pairs(write(tmp_path / name, samples), context=8).fingerprint
        for name, samples in (("b.tar", SAMPLES), ("c.tar", other))
    )
    assert first != second


# Captions of other images


def test_shuffled_captions_say_whose_they_are(tmp_path):
    path = many(tmp_path / "a.tar", 40)
    clean = open_pairs(path, context=8)
    noisy = open_pairs(path, context=8, caption_noise=0.4, noise_seed=5)
    assert noisy.image_ids.tolist() == clean.image_ids.tolist()
    assert (noisy.caption_of != noisy.image_ids).sum() == 32  # 0.4 of 80
    assert sorted(noisy.captions) == sorted(clean.captions)
    batch, before = (pairs.read(np.arange(80)) for pairs in (noisy, clean))
    assert torch.equal(batch["image"], before["image"])
    for row, caption in enumerate(noisy.captions):
        number = int(caption.split()[1])
        assert noisy.caption_of[row] == batch["caption_of"][row] == number
        own = clean.captions.index(caption)
        assert torch.equal(batch["text"][row], before["text"][own])
    matched = batch["caption_of"] == batch["image_id"]
    assert matched.sum() == 48
    assert torch.equal(batch["text"][matched], before["text"][matched])


# Splits


def test_captions_of_an_image_stay_together(tmp_path):
    pairs = open_pairs(many(tmp_path / "a.tar", 40), context=8)
    splits = split_pairs(pairs, evaluation_fraction=0.1, holdout_fraction=0.25, seed=0)
    parts = (splits.evaluation, splits.holdout, splits.pool)
    assert [len(part) for part in parts] == [8, 18, 54]  # 4, 9 and 27 of 40 images
    assert sorted(np.concatenate(parts)) == list(range(80))
    images = [set(pairs.image_ids[part].tolist()) for part in parts]
    assert [len(each) for each in images] == [4, 9, 27]
    assert len(images[0] | images[1] | images[2]) == 40
    other = split_pairs(pairs, evaluation_fraction=0.1, holdout_fraction=0.25, seed=1)
    assert set(pairs.image_ids[other.evaluation]) != images[0]


# Through a stream


def stream_of(path, *, workers=0, memory_gb=0.0):
    pairs = open_pairs(path, context=8, caption_noise=0.2, memory_gb=memory_gb)
    view = augmentation(flip=True, crop_padding=1, rand_augment=False, seed=1)
    rows = np.arange(len(pairs))
    return Stream(pairs, rows, batch_size=32, seed=0, view=view, workers=workers)


def test_a_stream_resumes_in_the_same_place(tmp_path):
    path = many(tmp_path / "a.tar", 120, broken={7})
    straight = list(islice(stream_of(path), 9))
    first = stream_of(path)
    list(islice(first, 4))
    second = stream_of(path, memory_gb=1.0)
    second.load_state_dict(first.state_dict())
    for batch, expected in zip(second, straight[4:], strict=False):
        assert equal(batch, expected)
    assert set(straight[0]) == {"id", "image", "text", "image_id", "caption_of", "draw"}
    draws = straight[2]["draw"].numpy()[[5, 1]]
    again = stream_of(path).read(draws)
    assert torch.equal(again["image"], straight[2]["image"][[5, 1]])
    epoch = torch.cat([batch["id"] for batch in straight])[:238]
    assert sorted(epoch.tolist()) == [row for row in range(240) if row not in (14, 15)]
    assert second.skipped == {14, 15}


@pytest.mark.slow
def test_workers_read_the_same_pairs(tmp_path):
    path = many(tmp_path / "a.tar", 120, broken={7})
    here, there = stream_of(path), stream_of(path, workers=2)
    batches = iter(there)
    for expected in islice(here, 9):
        assert equal(next(batches), expected)
    batches.close()
    assert there.skipped == here.skipped == {14, 15}
    assert equal(next(iter(there)), next(iter(here)))


def test_shards_that_are_far(tmp_path):
    content = (tmp_path / "a.tar").read_bytes() if many(tmp_path / "a.tar") else b""
    system = fsspec.filesystem("memory")
    system.pipe("/far/a.tar", content)
    try:
        far = open_pairs("memory://far/*.tar", context=8, memory_gb=0.0)
        here = open_pairs(str(tmp_path / "a.tar"), context=8, memory_gb=0.0)
        rows = np.array([70, 3, 4, 5])
        assert equal(far.read(rows), here.read(rows))
        assert far.fingerprint == here.fingerprint
    finally:
        system.rm("/far", recursive=True)


# What cannot be read


def test_shards_without_captions_are_refused(tmp_path):
    path = write(tmp_path / "a.tar", {"x": (1, ["  "]), "y": (2, [])})
    with pytest.raises(
        DataError,
        match=r"not one image with a caption in .*a.tar \(1 x image without caption, "
        r"1 x empty caption\); the caption of a.jpg .* is a.txt, or 'caption'",
    ):
        open_pairs(path, context=8)
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:550])
    with pytest.raises(DataError, match=r"\(1 x truncated or damaged shard\)"):
        open_pairs(str(tmp_path / "b.tar"), context=8)
    with tarfile.open(tmp_path / "c.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"c.tar \(nothing at all\)"):
        open_pairs(str(tmp_path / "c.tar"), context=8)


def test_a_truncated_shard_among_others(tmp_path):
    many(tmp_path / "a.tar", 20)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: whole.index(b"010.png")])
    pairs = open_pairs(str(tmp_path), context=8)
    assert len(pairs) == 40 + 20
    assert pairs.skipped_pairs == {"truncated or damaged shard": 1}


# Real pairs


def test_real_photos_with_captions(real_data):
    path = real_data / "flickr8k" / "flickr8k-test-00000.tar"
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    pairs = open_pairs(str(path), context=32, memory_gb=0.0)
    assert (len(pairs), pairs.image_shape, pairs.skipped_pairs) == (5000, (3, 112, 112), {})
    assert np.bincount(pairs.image_ids).tolist() == [5] * 1000
    batch = next(iter(Stream(pairs, np.arange(5000), batch_size=64, seed=0)))
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        for row in (0, 63):
            name = names[batch["image_id"][row]]
            captions = json.load(tar.extractfile(name.replace(".jpg", ".json")))["captions"]
            place = int(batch["id"][row])
            assert pairs.captions[place] == captions[place % 5].strip()
            pixels = np.asarray(Image.open(tar.extractfile(name)).convert("RGB"), dtype=np.int16)
            read = batch["image"][row].permute(1, 2, 0).numpy().astype(np.int16)
            assert np.abs(read - pixels).max() <= 1
    assert duplicates(batch).sum() == 64 - len(set(batch["image_id"].tolist()))
