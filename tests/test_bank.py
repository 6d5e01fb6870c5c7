import pytest
import torch

from superbatch.bank import MemoryBank
from superbatch.build import bank_of
from superbatch.errors import CheckpointError, ConfigError
from superbatch.recipes import recipe
from superbatch.selection import sample_indices, sample_weighted


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(*draws):
    draw = torch.tensor(draws)
    return {"id": draw + 100, "draw": draw, "image": draw.float()[:, None]}


def test_a_bank_of_one_super_batch_chooses_what_no_bank_chooses():
    bank = MemoryBank(6, generator=generator())
    plain = generator()
    for step in range(5):
        scores = torch.randn(6, generator=generator(step))
        bank.add(examples(*range(6 * step, 6 * step + 6)), scores, step)
        given = bank.sample(3)
        expected = sample_indices(scores, 3, generator=plain)
        assert given.index.tolist() == expected.tolist()
        assert (given.examples["draw"] - 6 * step).tolist() == expected.tolist()
        assert given.scores.tolist() == scores.tolist()
        assert given.weights_step.tolist() == [step] * 3


def test_with_more_capacity_the_best_of_earlier_super_batches_is_still_there():
    bank = MemoryBank(4, generator=generator(), temperature=0.0)
    bank.add(examples(0, 1), torch.tensor([5.0, 4.0]), 0)
    assert bank.sample(1).examples["draw"].tolist() == [0]
    bank.add(examples(2, 3), torch.tensor([1.0, 3.0]), 1)
    given = bank.sample(2)
    assert given.examples["draw"].tolist() == [1, 3]
    assert given.weights_step.tolist() == [0, 1]
    assert len(bank) == 1


def test_the_oldest_make_room():
    bank = MemoryBank(3, generator=generator(), temperature=0.0)
    bank.add(examples(0, 1), torch.tensor([9.0, 8.0]))
    bank.add(examples(2, 3), torch.tensor([1.0, 2.0]))
    assert len(bank) == 3
    assert bank.sample(3).examples["draw"].tolist() == [1, 2, 3]


def test_an_example_leaves_after_so_many_draws():
    bank = MemoryBank(2, generator=generator(), temperature=0.0, max_times_sampled=2)
    bank.add(examples(0, 1), torch.tensor([1.0, 0.0]))
    assert [bank.sample(1).examples["draw"].item() for _ in range(4)] == [0, 0, 1, 1]
    assert len(bank) == 0


def test_one_super_batch_pushes_everything_older_out_even_when_it_is_short():
    bank = MemoryBank(4, super_batches=1, generator=generator(), temperature=0.0)
    bank.add(examples(0, 1, 2, 3), torch.tensor([9.0, 8.0, 7.0, 6.0]))
    bank.sample(2)
    bank.add(examples(4, 5, 6), torch.tensor([3.0, 2.0, 1.0]))
    assert len(bank) == 3
    assert bank.sample(3).examples["draw"].tolist() == [4, 5, 6]


def test_an_example_stays_for_so_many_super_batches_however_much_room_there_is():
    bank = MemoryBank(8, super_batches=2, generator=generator(), temperature=0.0)
    for first in range(0, 8, 2):
        bank.add(examples(first, first + 1), torch.tensor([1.0, 0.0]))
        resumed = MemoryBank(8, super_batches=2, generator=generator(), temperature=0.0)
        resumed.load_state_dict(bank.state_dict(), lambda draws: examples(*draws.tolist()))
        bank = resumed
    assert bank.sample(len(bank)).examples["draw"].tolist() == [4, 5, 6, 7]


def test_a_runs_bank_is_of_as_many_super_batches_as_it_says():
    for super_batches in (1, 3):
        bank = bank_of(recipe("classact").changed(select={"bank_super_batches": super_batches}))
        for draw in range(5):
            bank.add(examples(draw), torch.zeros(1))
        assert len(bank) == super_batches


def test_a_checkpoint_is_held_where_its_examples_are():
    """Checkpoints come on the CPU; meta stands for any other device."""
    bank = MemoryBank(4, generator=generator())
    bank.add(examples(0, 1), torch.zeros(2))
    there = MemoryBank(4, generator=generator())

    def read(draws):
        return {name: field.to("meta") for name, field in examples(*draws.tolist()).items()}

    there.load_state_dict(bank.state_dict(), read)
    there.add(read(torch.arange(2)), torch.zeros(2, device="meta"))
    assert there.state_dict()["scores"].device.type == "meta"
    assert len(there) == 4


def test_a_checkpoint_of_an_earlier_version_is_refused():
    state = MemoryBank(4, generator=generator()).state_dict()
    state.pop("tally")
    with pytest.raises(CheckpointError, match="earlier version"):
        MemoryBank(4, generator=generator()).load_state_dict(state, examples)


def test_more_than_fits_is_refused():
    bank = MemoryBank(2, generator=generator())
    with pytest.raises(ConfigError, match="3 examples do not fit a memory bank of 2"):
        bank.add(examples(0, 1, 2), torch.zeros(3))


def test_interrupted_and_resumed_is_identical():
    def turns(bank, steps):
        for step in steps:
            scores = torch.randn(4, generator=generator(step))
            bank.add(examples(*range(4 * step, 4 * step + 4)), scores, step)
            yield bank.sample(2).examples["draw"].tolist()

    through = list(turns(MemoryBank(8, generator=generator()), range(8)))
    first = MemoryBank(8, generator=generator())
    begun = list(turns(first, range(3)))
    state = first.state_dict()
    assert "image" not in state
    second = MemoryBank(8, generator=generator(99))
    second.load_state_dict(state, lambda draws: examples(*draws.tolist()))
    assert begun + list(turns(second, range(3, 8))) == through


def test_what_is_drawn_brings_its_importance_weights():
    examples = {"id": torch.arange(6), "draw": torch.arange(6)}
    scores = torch.tensor([0.0, 1.0, 2.0, 0.0, -1.0, 0.5])

    def drawn(exponent):
        bank = MemoryBank(
            6, generator=torch.Generator().manual_seed(4), importance_exponent=exponent
        )
        bank.add(examples, scores)
        return bank.sample(3)

    plain, weighted = drawn(0.0), drawn(0.5)
    assert "weight" not in plain.examples
    assert torch.equal(plain.index, weighted.index)
    index, log_inclusion = sample_weighted(scores, 3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(weighted.index, index)
    expected = (0.5 / log_inclusion.exp()).sqrt()  # 3 of 6 are drawn
    assert weighted.examples["weight"].tolist() == pytest.approx(expected.tolist())


def test_what_cannot_be_drawn_does_not_lighten_the_rest():
    """Both that can be drawn are: each stands for itself, ``b / (count q) = 2 / (2 * 1)``."""
    bank = MemoryBank(4, generator=torch.Generator().manual_seed(4), importance_exponent=1.0)
    nan = float("nan")
    bank.add({"id": torch.arange(4), "draw": torch.arange(4)}, torch.tensor([0.0, nan, 1.0, nan]))
    assert bank.sample(2).examples["weight"].tolist() == pytest.approx([1.0, 1.0])
