"""A loader of kept rows, for loops that nobody may edit."""

import pytest
import torch
from selector_parts import digits, selector, small
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from superbatch.criterion import uniform
from superbatch.errors import ConfigError
from superbatch.selector import Schedule, SelectingLoader, Selector
from superbatch.tasks import Classification


def loader_of(rows=40, **settings):
    (batch,) = digits(1, rows=rows)
    data = TensorDataset(batch["image"], batch["label"])
    return DataLoader(data, **{"batch_size": 16} | settings)


class Remembering:
    """A loader that knows where it stands."""

    def __init__(self, batches):
        self.batches = list(batches)
        self.place = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def test_every_super_batch_gives_its_kept_rows_the_short_one_fewer():
    chooser = selector()
    loader = SelectingLoader(loader_of(), chooser)
    for _ in range(2):
        assert [len(image) for image, _ in loader] == [8, 8, 4]
    assert len(loader) == 3
    assert (chooser.seen, chooser.kept, chooser.steps) == (80, 40, 6)
    short = SelectingLoader(loader_of(drop_last=True), selector())
    assert [len(image) for image, _ in short] == [8, 8]


def test_it_selects_and_learns_as_the_three_lines_do():
    by_hand, other = selector(), selector()
    for super_batch, (image, label) in zip(
        loader_of(), SelectingLoader(loader_of(), other), strict=True
    ):
        kept = by_hand.select(super_batch)
        assert torch.equal(kept[0], image)
        assert torch.equal(kept[1], label)
        by_hand.learn(kept)
        assert by_hand.metrics["online_loss"] == other.metrics["online_loss"]


def test_it_may_be_left_to_the_loop_to_learn():
    chooser = selector()
    assert len(list(SelectingLoader(loader_of(), chooser, learn=False))) == 3
    assert "online_loss" not in chooser.metrics


def test_nothing_is_read_or_scored_ahead():
    read = []

    def source():
        for batch in digits(5):
            read.append(batch)
            yield batch

    chooser = selector()
    loader = iter(SelectingLoader(source(), chooser))
    next(loader)
    next(loader)
    assert len(read) == chooser.steps == 2


def test_keeping_all_gives_the_very_batches():
    batches = list(digits(3))
    given = list(SelectingLoader(batches, selector(filter_ratio=0)))
    assert all(one is other for one, other in zip(given, batches, strict=True))


def test_trainers_find_what_they_look_for():
    inner = loader_of(num_workers=0, drop_last=True)
    loader = SelectingLoader(inner, selector())
    for name in ("dataset", "sampler", "batch_sampler", "num_workers", "drop_last", "collate_fn"):
        assert getattr(loader, name) is getattr(inner, name)
    assert (loader.batch_size, loader.super_batch_size) == (8, 16)
    assert SelectingLoader([], selector()).batch_size is None
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = loader.no_such_thing


def test_the_epoch_reaches_whoever_wants_it():
    sampler = DistributedSampler(range(40), num_replicas=2, rank=0)
    SelectingLoader(loader_of(sampler=sampler), selector()).set_epoch(3)
    assert sampler.epoch == 3

    class Told(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

    told = Told()
    SelectingLoader(told, selector()).set_epoch(4)
    assert told.epoch == 4
    SelectingLoader([], selector()).set_epoch(5)  # nobody cares


def test_a_loader_without_length_has_none():
    loader = SelectingLoader((batch for batch in digits(2)), selector())
    with pytest.raises(TypeError, match="generator has no length"):
        len(loader)
    with pytest.raises(ConfigError, match="tell the trainer how many steps"):
        len(loader)
    assert len(list(loader)) == 2  # which asks for a length, and goes on without


def test_epochs_say_what_fractions_are_of():
    chooser = selector(schedule=Schedule(start=0.5))
    loader = SelectingLoader(loader_of(), chooser, epochs=2)
    scored = []
    for _ in range(2):
        for _ in loader:
            scored.append(chooser._last.scores is not None)
    assert scored == [False] * 3 + [True] * 3
    told = selector(schedule=Schedule(start=0.5, steps=100))
    SelectingLoader(loader_of(), told, epochs=2)
    assert told.plan.schedule.steps == 100


@pytest.mark.parametrize("kind", [list, Remembering])
@pytest.mark.parametrize("stop", [2, 5])
def test_it_goes_on_in_the_middle_of_an_epoch(kind, stop, tmp_path):
    def fresh(seed):
        return SelectingLoader(kind(digits(5)), selector(online=small(seed)))

    def ids(loader, count):
        found = []
        while len(found) < count:
            for batch in loader:
                found.append(batch["id"].tolist())
                if len(found) == count:
                    break
        return found

    whole = ids(fresh(1), 10)
    first, second = fresh(1), fresh(9)
    assert ids(first, stop) == whole[:stop]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert ids(second, 10 - stop) == whole[stop:]
    assert second.selector.seen == 160


def test_a_state_that_is_saved_again_at_once_is_the_same_state():
    first, second = (SelectingLoader(list(digits(5)), selector()) for _ in range(2))
    batches = iter(first)
    next(batches), next(batches)
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["given"] == 2


def test_uniform_sampling_needs_no_models():
    random = Selector(task=Classification(), criterion=uniform, filter_ratio=0.5)
    assert [len(image) for image, _ in SelectingLoader(loader_of(), random)] == [8, 8, 4]
