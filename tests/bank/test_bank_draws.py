"""Which examples a bank of several super-batches gives, how often, and where they are kept."""

import itertools
import math
from collections import Counter

import pytest
import torch

from superbatch.bank import MemoryBank
from superbatch.bank.lots import Lots
from superbatch.bank.rows import Rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(*draws):
    draw = torch.tensor(draws)
    return {"id": draw + 100, "draw": draw, "image": draw.float()[:, None]}


def pairs_without_replacement(scores):
    """Probability of each set of two, drawn one after the other from the softmax."""
    p = [math.exp(score) for score in scores]
    return {
        (i, j): p[i] / sum(p) * p[j] / (sum(p) - p[i]) + p[j] / sum(p) * p[i] / (sum(p) - p[j])
        for i, j in itertools.combinations(range(len(p)), 2)
    }


def test_draws_over_several_super_batches_follow_the_softmax_of_what_is_left():
    """Of five the best was too old and left; the others, in rows with a hole, share its part."""
    scores = [0.0, 1.5, -0.5, 0.7]  # of draws 1 ... 4
    bank = MemoryBank(8, generator=generator(7), max_times_sampled=10**6, max_staleness=0)
    bank.add(examples(1, 2), torch.tensor(scores[:2]), 1)
    bank.add(examples(0), torch.tensor([50.0]), 0)
    bank.add(examples(3, 4), torch.tensor(scores[2:]), 1)
    bank.expire(2)
    trials = 4000
    seen = Counter(tuple((bank.sample(2).examples["draw"] - 1).tolist()) for _ in range(trials))
    expected = pairs_without_replacement(scores)
    chi_square = sum((seen[s] - trials * p) ** 2 / (trials * p) for s, p in expected.items())
    assert chi_square < 20.5  # 5 degrees of freedom: one in a thousand is above


def test_the_lowest_scores_make_room_and_new_ones_always_come_in():
    bank = MemoryBank(4, generator=generator(), temperature=0.0, removal="lowest")
    bank.add(examples(0, 1), torch.tensor([5.0, 1.0]))
    bank.add(examples(2, 3), torch.tensor([math.nan, 3.0]))
    bank.add(examples(4), torch.tensor([0.0]))  # not finite: the first to leave
    assert sorted(bank.state_dict()["example/draw"].tolist()) == [0, 1, 3, 4]
    bank.add(examples(5), torch.tensor([-9.0]))
    assert sorted(bank.state_dict()["example/draw"].tolist()) == [0, 1, 3, 5]
    bank.add(examples(6, 7, 8, 9), torch.zeros(4))
    assert sorted(bank.state_dict()["example/draw"].tolist()) == [6, 7, 8, 9]


def test_scores_of_more_than_so_many_steps_are_not_drawn_by():
    bank = MemoryBank(8, generator=generator(), temperature=0.0, max_staleness=1)
    bank.add(examples(0, 1), torch.tensor([9.0, 8.0]), weights_step=0)
    bank.add(examples(2, 3), torch.tensor([1.0, 2.0]), weights_step=1)
    bank.expire(2)  # 0 and 1 are one step old
    assert len(bank) == 4
    bank.expire(3)
    assert bank.sample(2).examples["draw"].tolist() == [2, 3]


def test_old_scores_are_renewed_once_and_are_new_then():
    asked = []

    def score_again(batch):
        asked.append(batch["draw"].tolist())
        return -batch["draw"].double()

    bank = MemoryBank(
        8, generator=generator(), temperature=0.0, max_staleness=1, score_again=score_again
    )
    bank.add(examples(0, 1), torch.tensor([9.0, 8.0]), weights_step=0)
    bank.add(examples(2), torch.tensor([-0.5]), weights_step=2)
    bank.expire(3)
    assert len(bank) == 3
    assert [bank.renew(step) for step in (3, 3, 4)] == [2, 0, 0]
    assert asked == [[0, 1]]
    draw = bank.sample(2)
    assert draw.examples["draw"].tolist() == [0, 2]
    assert draw.weights_step.tolist() == [2, 2]
    assert draw.scores.tolist() == [0.0, -1.0, -0.5]


def test_a_draw_does_not_change_when_the_bank_does():
    bank = MemoryBank(4, generator=generator(), max_times_sampled=9)
    bank.add(examples(0, 1), torch.tensor([3.0, 4.0]))
    draw = bank.sample(1)
    for first in range(2, 12, 2):
        bank.add(examples(first, first + 1), torch.zeros(2))
    assert draw.scores.tolist() == [3.0, 4.0]


def test_pixels_are_shared_until_less_than_half_are_left():
    lots = Lots()
    batch = examples(0, 1, 2, 3, 4)
    lots.add(1, batch)
    lots.add(2, examples(5, 6))
    assert lots._lots[1] is batch
    lots.forget(torch.tensor([1, 1]))
    assert lots.wasteful() == []
    lots.forget(torch.tensor([1, 2, 2]))
    assert lots.wasteful() == [1]
    lots.shrink(1, torch.tensor([1, 4]))
    assert lots.take(torch.tensor([1, 1]), torch.tensor([0, 1]))["draw"].tolist() == [1, 4]
    assert list(lots._lots) == [1]


def test_a_bank_keeps_at_most_twice_the_pixels_it_holds():
    bank = MemoryBank(40, generator=generator(), removal="lowest")
    for step in range(60):
        bank.add(examples(*range(8 * step, 8 * step + 8)), torch.rand(8, generator=generator(step)))
        kept = sum(len(lot["image"]) for lot in bank._lots._lots.values())
        assert kept <= 2 * len(bank)
        given = bank.sample(3).examples
        assert given["image"].squeeze(1).tolist() == given["draw"].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_rows_stay_in_the_order_of_arrival_however_often_they_are_closed_up(seed):
    random = torch.Generator().manual_seed(seed)
    rows, model, number = Rows(16), [], 0
    for _ in range(200):
        count = int(torch.randint(0, 17 - len(model), (1,), generator=random))
        rows.append(count, name=torch.arange(number, number + count), same=number)
        model += [(number + place, number) for place in range(count)]
        number += count
        assert rows.values("name").tolist() == [name for name, _ in model]
        assert rows.values("same").tolist() == [same for _, same in model]
        few = int(torch.randint(0, 5, (1,), generator=random))
        assert rows["name"][rows.oldest(few)].tolist() == [name for name, _ in model[:few]]
        assert rows["name"][rows.up_to("name", number - 9)].tolist() == [
            name for name, _ in model if name <= number - 9
        ]
        gone = torch.rand(len(model), generator=random) < 0.4
        rows.kill(rows.alive()[gone])
        model = [row for row, dead in zip(model, gone.tolist(), strict=True) if not dead]
        assert len(rows) == len(model)
