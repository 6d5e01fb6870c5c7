import pytest
import torch
from torch.nn import functional

from superbatch import joint
from superbatch.bank import Bank, MemoryBank
from superbatch.criterion import CRITERIA
from superbatch.errors import ConfigError, DataError


WEIGHTS = CRITERIA["learnability"].weights


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(step, count=12):
    """Pairs of a super-batch, as a source gives them."""
    draw = torch.arange(count) + 100 * step
    return {"id": draw + 1000, "draw": draw, "text": draw[:, None] * torch.ones(1, 3).long()}


def scored(step, count=12):
    """The same with logit factors of both roles, and the scores of the pairs alone."""
    random = generator(step)
    batch = examples(step, count)
    scores = torch.zeros(count)
    for role, weight in WEIGHTS.items():
        towers = [functional.normalize(torch.randn(count, 8, generator=random)) for _ in "it"]
        factors = joint.logit_factors(*towers, scale=5.0, bias=-2.0)
        batch = joint.with_factors(batch, role, factors)
        scores = scores + weight * joint.own_losses(factors, "sigmoid")
    return batch, scores


def bank(seed=0, **settings):
    settings = {"loss": "sigmoid", "chunks": 4, "generator": generator(seed), **settings}
    return joint.JointBank(WEIGHTS, **settings)


def test_it_is_a_bank_and_so_is_the_memory_bank():
    assert isinstance(bank(), Bank)
    assert isinstance(MemoryBank(1, generator=generator()), Bank)


def test_factors_travel_with_the_rows_and_are_taken_off_again():
    batch, _ = scored(0)
    assert sorted(set(batch) - set(examples(0))) == [
        "logits/online/image",
        "logits/online/text",
        "logits/reference/image",
        "logits/reference/text",
    ]
    factors = joint.factors_of(batch)
    assert set(factors) == {"online", "reference"}
    assert factors["online"].image is batch["logits/online/image"]
    assert factors["reference"].text is batch["logits/reference/text"]
    plain = joint.without_factors(batch)
    assert list(plain) == list(examples(0))
    assert joint.factors_of(plain) == {}


@pytest.mark.parametrize("first", ["softmax", "uniform"])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_each_super_batch_gives_the_joint_choice(first, temperature):
    ours, plain = bank(first=first, temperature=temperature), generator()
    for step in range(3):
        batch, scores = scored(step)
        ours.add(batch, scores, step)
        assert len(ours) == 12
        draw = ours.sample(8)
        expected = joint.joint_indices(
            joint.factors_of(batch),
            WEIGHTS,
            8,
            loss="sigmoid",
            chunks=4,
            first=first,
            temperature=temperature,
            generator=plain,
        )
        assert draw.index.tolist() == expected.tolist()
        assert list(draw.examples) == list(examples(step))
        assert (draw.examples["draw"] - 100 * step).tolist() == expected.tolist()
        assert draw.examples["text"].shape == (8, 3)
        assert draw.scores.tolist() == scores.tolist()
        assert draw.weights_step.tolist() == [step] * 8
        assert len(ours) == 0


def test_only_the_last_super_batch_is_held():
    ours = bank()
    ours.add(*scored(0))
    ours.add(*scored(1, count=9), 1)
    assert len(ours) == 9
    assert int(ours.sample(4).examples["draw"].min()) >= 100


def test_a_super_batch_left_short_is_given_as_the_loop_asks():
    # The loop asks for 8, or for all where unreadable images leave fewer.
    for count, expected in [(12, 8), (9, 8), (8, 8), (7, 7), (1, 1)]:
        ours = bank()
        ours.add(*scored(0, count))
        draw = ours.sample(min(8, len(ours)))
        assert len(draw.index) == expected
        assert draw.index.unique().tolist() == draw.index.tolist()


def test_sizes_that_cannot_be_are_refused():
    ours = bank()
    ours.add(*scored(0))
    with pytest.raises(ConfigError, match="4 chunks do not divide a sub-batch of 6"):
        ours.sample(6)
    with pytest.raises(ConfigError, match="cannot choose 13 of 12"):
        ours.sample(13)


def test_pairs_without_a_finite_loss_are_not_given():
    batch, scores = scored(0)
    batch["logits/online/image"][:5] = float("nan")
    ours = bank()
    ours.add(batch, scores)
    with pytest.raises(DataError, match="8 pairs are wanted and only 7 of 12"):
        ours.sample(8)
    assert ours.sample(4).index.min() >= 5


def test_a_super_batch_without_logits_is_refused():
    ours = bank()
    ours.add(examples(0), torch.zeros(12))
    with pytest.raises(ConfigError, match="weighs online, reference; there are those of none"):
        ours.sample(8)


def test_interrupted_and_resumed_is_identical():
    def turns(bank, steps):
        for step in steps:
            bank.add(*scored(step), step)
            yield bank.sample(8).examples["draw"].tolist()

    through = list(turns(bank(), range(8)))
    first = bank()
    begun = list(turns(first, range(3)))
    second = bank(seed=99)
    second.load_state_dict(first.state_dict(), examples)
    assert begun + list(turns(second, range(3, 8))) == through
    assert len({str(chosen) for chosen in through}) > 1
