"""The stream in an order that was decided before."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.errors import ConfigError, DataError
from superbatch.sources import ArrayExamples, Stream, augmentation, catalogue_of
from superbatch.sources.ordered import OrderedStream
from superbatch.sources.stream import Readable


def numbered(count):
    """Examples whose pixels, label and id tell their row."""
    rows = np.arange(count)
    images = torch.arange(count * 4, dtype=torch.uint8).reshape(count, 1, 2, 2)
    return ArrayExamples(images, catalogue_of("a test", rows + 1000, ("label", rows % 3)))


ROWS = np.array([7, 2, 2, 9, 0, 5, 1, 7, 3, 4])
DRAWS = np.array([3, 20, 5, 40, 41, 6, 8, 3, 90, 77])  # draw 3, of row 7, was learned twice


def ordered(draws=DRAWS, **settings):
    return OrderedStream(numbered(10), ROWS, draws, **{"batch_size": 3, **settings})


def ids(batches):
    return [(batch["id"] - 1000).tolist() for batch in batches]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_batches_are_the_order_without_a_short_one():
    stream = ordered()
    assert len(stream) == 3
    batches = list(stream)
    assert ids(batches) == [[7, 2, 2], [9, 0, 5], [1, 7, 3]]
    assert [batch["draw"].tolist() for batch in batches] == [[3, 20, 5], [40, 41, 6], [8, 3, 90]]
    assert set(batches[0]) == {"id", "draw", "image", "label"}
    assert batches[1]["image"][0].flatten().tolist() == [36, 37, 38, 39]
    assert list(stream) == []
    assert isinstance(stream.examples, Readable)


def test_without_draws_the_position_is_the_draw():
    batches = list(ordered(None, batch_size=5))
    assert [batch["draw"].tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    again = ordered(None).read(np.array([9, 0, 3]))
    assert ids([again]) == [[4, 7, 9]]


def test_batches_that_begin_where_a_run_began_its_steps():
    stream = ordered(starts=np.array([0, 3, 5, 8]))
    assert len(stream) == 4
    batches = list(stream)
    assert ids(batches) == [[7, 2, 2], [9, 0], [5, 1, 7], [3, 4]]
    assert batches[1]["draw"].tolist() == [40, 41]
    assert stream.state_dict() == {"step": 4, "skipped": []}
    stream.load_state_dict({"step": 2, "skipped": []})
    assert ids(stream) == [[5, 1, 7], [3, 4]]


def test_an_order_of_one_short_batch_is_one_batch():
    assert len(ordered(starts=np.array([0]), batch_size=11)) == 1


def test_ranks_share_short_batches():
    starts = np.array([0, 3, 7])
    parts = [ids(ordered(starts=starts, batch_size=4, rank=rank, world=2)) for rank in range(2)]
    assert parts == [[[7], [9, 0], [7]], [[2, 2], [5, 1], [3, 4]]]


def test_a_recorded_draw_shows_the_same_pixels():
    view = augmentation(flip=True, crop_padding=1, rand_augment=False, seed=1)
    run = Stream(numbered(10), np.arange(10), batch_size=32, seed=0, view=view)
    learned = run.read(np.array([30, 3, 17, 4, 99]))
    rows = (learned["id"] - 1000).numpy()
    stream = OrderedStream(numbered(10), rows, learned["draw"].numpy(), batch_size=5, view=view)
    assert equal(next(iter(stream)), learned)
    policy = OrderedStream(numbered(10), rows, batch_size=5, view=view)
    assert not torch.equal(next(iter(policy))["image"], learned["image"])


def test_a_draw_can_be_read_again():
    assert ids([ordered().read(np.array([90, 3, 20, 3]))]) == [[3, 7, 2, 7]]
    for stream, draw in ((ordered(), 4), (ordered(), 1000), (ordered(None), 10)):
        with pytest.raises(DataError, match=rf"draw {draw} is not in the order \(10 examples\)"):
            stream.read(np.array([3, draw]))


def test_an_order_shorter_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="order of 10 examples does not fill one batch of 11"):
        ordered(batch_size=11)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10), st.booleans())
def test_ranks_share_every_batch_and_go_on_where_they_were(world, share, stop, replayed):
    size = world * share
    if size > 10:
        return
    draws = DRAWS if replayed else None
    whole = list(ordered(draws, batch_size=size))
    parts = []
    for rank in range(world):
        first, second = (ordered(draws, batch_size=size, rank=rank, world=world) for _ in range(2))
        batches = list(islice(first, stop))
        second.load_state_dict(first.state_dict())
        batches += list(second)
        parts.append(batches)
    assert all(len(batches) == len(whole) for batches in parts)
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        together = {name: torch.cat([part[name] for part in of_ranks]) for name in batch}
        assert equal(together, batch)


@pytest.mark.slow
def test_workers_read_the_same_to_the_end():
    starts = np.array([0, 3, 5])
    here, there = ordered(starts=starts), ordered(workers=2, starts=starts)
    for ours, theirs in zip(here, there, strict=True):
        assert equal(ours, theirs)
    assert there.state_dict() == here.state_dict() == {"step": 3, "skipped": []}
