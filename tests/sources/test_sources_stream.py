"""The endless stream."""

from io import BytesIO
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from superbatch.errors import ConfigError, DataError
from superbatch.sources import (
    ArrayExamples,
    EncodedExamples,
    Examples,
    Stream,
    augmentation,
    catalogue_of,
    open_examples,
)
from superbatch.sources.examples import in_memory


def numbered(count, **settings):
    """Examples whose label and id tell their row, as does their one pixel where 256 are enough."""
    rows = np.arange(count)
    images = torch.arange(count).to(torch.uint8).reshape(count, 1, 1, 1)
    examples = ArrayExamples(images, catalogue_of("a test", rows + 1000, ("label", rows % 3)))
    return Stream(examples, rows, **{"batch_size": 4, "seed": 0, **settings})


def broken_rows(count, broken):
    """Encoded examples, a few of which cannot be decoded."""

    def encoded(row):
        if row in broken:
            return b"\xff\xd8\xff not a JPEG"
        file = BytesIO()
        Image.new("RGB", (2, 2), (row % 256,) * 3).save(file, "PNG" if row % 2 else "JPEG")
        return file.getvalue()

    rows = np.arange(count)
    return EncodedExamples(encoded, catalogue_of("a test", rows + 1000, ("label", rows % 3)))


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_every_id_comes_once_an_epoch():
    stream = numbered(10, batch_size=4)
    seen = list(
        chain(*ids(islice(stream, 15)))
    )  # 60 draws: six epochs, of two and a half batches each
    epochs = [seen[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(1000, 1010)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_batch_larger_than_the_pool_spans_epochs():
    batch = next(iter(numbered(3, batch_size=8)))
    assert batch["draw"].tolist() == list(range(8))
    order = batch["id"].tolist()
    assert sorted(order[:3]) == sorted(order[3:6]) == [1000, 1001, 1002]
    assert len(set(order[6:])) == 2


def test_what_stands_at_a_position_does_not_depend_on_what_was_asked_before():
    count = 10_000  # more than the places of a permutation that are found at once
    straight = numbered(count, batch_size=640)
    seen = np.concatenate([straight.ids_of(step) for step in range(1, 48)])[: 3 * count]
    epochs = seen.reshape(3, count)
    assert (np.sort(epochs) == 1000 + np.arange(count)).all()
    assert len(np.unique(epochs, axis=0)) == 3

    again = numbered(count, batch_size=640)
    near = [np.arange(first, first + 30) for first in (9_980, 25_000, 3, 9_985, 4_090, 29_970, 2)]
    for positions in (*near, np.array([29_999, 0, 12_345, 4_096]), np.array([7])):
        ids = again.examples.ids[again.rows_at(positions)]
        assert ids.tolist() == seen[positions].tolist()


def test_a_batch_says_what_it_holds():
    stream = numbered(10)
    batch = list(islice(stream, 2))[1]
    assert set(batch) == {"id", "draw", "image", "label"}
    assert batch["draw"].tolist() == [4, 5, 6, 7]
    rows = batch["id"] - 1000
    assert batch["image"].flatten().tolist() == rows.tolist()
    assert batch["label"].tolist() == (rows % 3).tolist()
    assert isinstance(stream.examples, Examples)


def test_rows_that_were_not_given_never_come():
    stream = Stream(numbered(10).examples, np.array([2, 5, 7]), batch_size=3, seed=0)
    assert all(sorted(batch) == [1002, 1005, 1007] for batch in ids(islice(stream, 5)))


def test_a_draw_can_be_read_again():
    stream = numbered(10, view=augmentation(flip=True, crop_padding=0, rand_augment=False, seed=1))
    batches = list(islice(stream, 6))
    again = stream.read(np.array([21, 3, 14]))
    assert again["draw"].tolist() == [21, 3, 14]
    assert again["id"].tolist() == [
        batches[5]["id"][1].item(),
        batches[0]["id"][3].item(),
        batches[3]["id"][2].item(),
    ]
    assert len(stream.read(np.arange(0))["id"]) == 0


def test_a_resumed_stream_goes_on_where_it_was():
    straight = ids(islice(numbered(10), 7))
    first = numbered(10)
    assert ids(islice(first, 3)) == straight[:3]
    assert first.state_dict()["step"] == 3
    second = numbered(10)
    second.load_state_dict(first.state_dict())
    assert ids(islice(second, 4)) == straight[3:]
    assert ids(islice(first, 4)) == straight[3:]  # a new iterator of the same stream, too


def test_the_state_within_the_loop_counts_the_batch_in_hand():
    stream = numbered(10)
    for count, _ in enumerate(islice(stream, 3), start=1):
        assert stream.state_dict()["step"] == count


def test_another_seed_is_another_order():
    assert ids(islice(numbered(10, seed=0), 3)) != ids(islice(numbered(10, seed=1), 3))


def test_ranks_share_the_batch():
    whole = [batch["draw"].tolist() for batch in islice(numbered(10, batch_size=6), 3)]
    parts = [
        [b["draw"].tolist() for b in islice(numbered(10, batch_size=6, rank=r, world=3), 3)]
        for r in range(3)
    ]
    assert whole[1] == [6, 7, 8, 9, 10, 11]
    assert [part[1] for part in parts] == [[6, 7], [8, 9], [10, 11]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5, "world": 2}, "batch_size is 5 and there are 2 ranks"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "world": 2, "rank": 2}, "rank is 2 and there are 2 ranks"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        numbered(10, **settings)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="not one example to draw from"):
        Stream(numbered(10).examples, np.arange(0), batch_size=1, seed=0)


def test_broken_images_are_left_out_and_counted():
    examples = broken_rows(200, {17})
    stream = Stream(examples, np.arange(200), batch_size=50, seed=0)
    epoch = list(islice(stream, 4))
    draws = torch.cat([batch["draw"] for batch in epoch])
    seen = torch.cat([batch["id"] for batch in epoch])
    assert stream.skipped == examples.skipped == {1017}
    resumed = Stream(broken_rows(200, {17}), np.arange(200), batch_size=50, seed=0)
    resumed.load_state_dict(stream.state_dict())
    assert resumed.skipped == {1017}
    assert sorted(seen.tolist()) == [1000 + row for row in range(200) if row != 17]
    # Every remaining id is still with its own draw.
    whole = Stream(numbered(200).examples, np.arange(200), batch_size=200, seed=0)
    of_draw = next(iter(whole))["id"]
    assert seen.tolist() == of_draw[draws].tolist()


def test_what_is_read_elsewhere_is_accounted_for_here():
    here, there, elsewhere = (
        Stream(broken_rows(300, {17}), np.arange(300), batch_size=100, seed=1) for _ in range(3)
    )
    for step, batch in enumerate(islice(here, 3), start=1):
        read, missing = elsewhere.batch_of(step)
        assert equal(read, batch)
        assert set(there.ids_of(step).tolist()) == set(batch["id"].tolist()) | missing
        there.handed_out(missing)
    assert there.state_dict() == here.state_dict() == {"step": 3, "skipped": [1017]}
    assert elsewhere.state_dict()["step"] == 0


def test_too_many_broken_images_stop_the_stream_once_all_were_read():
    stream = Stream(broken_rows(150, {17, 20}), np.arange(150), batch_size=50, seed=0)
    with pytest.raises(
        DataError, match=r"2 of 150 images cannot be decoded \(1.3%, the limit is 1%\)"
    ):
        list(islice(stream, 3))
    assert stream.state_dict()["step"] == 2


def test_too_many_broken_images_stop_decoding_up_front():
    with pytest.raises(DataError, match=r"2 of 150 images .* ids 1017, 1020; mend or remove them"):
        in_memory(broken_rows(150, {17, 20}))
    told = []
    examples = in_memory(broken_rows(200, {17, 20}), lambda done, total: told.append((done, total)))
    assert told == [(200, 200)]
    assert examples.skipped == {1017, 1020}


def test_what_is_kept_in_memory_is_what_would_be_read():
    read = broken_rows(200, {17, 20})
    kept = in_memory(broken_rows(200, {17, 20}))
    assert kept.ids.tolist() == read.ids.tolist()
    assert kept.fingerprint == read.fingerprint
    rows = np.array([21, 17, 0, 199, 20, 21, 18])
    assert equal(kept.read(rows), read.read(rows))
    assert kept.read(rows)["id"].tolist() == [1021, 1000, 1199, 1021, 1018]
    assert kept.skipped == read.skipped == {1017, 1020}


def test_a_batch_of_broken_images_only_is_refused():
    stream = Stream(broken_rows(150, {17}), np.array([17]), batch_size=2, seed=0)
    with pytest.raises(DataError, match=r"not one of the 2 images of a batch .* id 1017"):
        next(iter(stream))


def test_a_rank_does_not_judge_a_batch_by_its_part():
    settings = {"batch_size": 4, "seed": 0}
    examples = broken_rows(150, {17})
    parts = [Stream(examples, np.array([17, 18]), rank=r, world=4, **settings) for r in range(4)]
    assert sorted(len(next(iter(part))["id"]) for part in parts) == [0, 0, 1, 1]
    assert {part.skipped for part in parts} == {frozenset({1017})}


@pytest.mark.slow
def test_workers_read_the_same():
    def stream(workers):
        view = augmentation(flip=True, crop_padding=0, rand_augment=False, seed=1)
        examples = broken_rows(300, {17})
        return Stream(examples, np.arange(300), batch_size=50, seed=0, view=view, workers=workers)

    before = torch.get_rng_state()
    here, there = stream(0), stream(2)
    batches = iter(there)
    for expected in islice(here, 7):
        assert equal(next(batches), expected)
    assert there.state_dict()["step"] == 7
    batches.close()
    assert there.skipped == here.skipped == {1017}
    assert equal(next(iter(there)), next(iter(here)))
    there.examples = broken_rows(300, set(range(300)) - {0})
    there.rows = np.array([5])
    with pytest.raises(DataError, match=r"^not one of the 50 images"):
        next(iter(there))
    assert torch.equal(torch.get_rng_state(), before)


def test_real_images_stream_without_being_kept(real_data):
    path = str(real_data / "cifar10n" / "test.parquet")
    kept, encoded = (open_examples(path, memory_gb=gb) for gb in (2.0, 0.0))
    assert isinstance(kept, ArrayExamples)
    assert isinstance(encoded, EncodedExamples)
    assert kept.fingerprint == encoded.fingerprint
    first, second = (
        next(iter(Stream(each, np.arange(10_000), batch_size=64, seed=0)))
        for each in (kept, encoded)
    )
    assert equal(first, second)
