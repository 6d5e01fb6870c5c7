"""A bank for each part of a super-batch; and what ranks cannot share."""

import pytest
import torch

from superbatch.bank import MemoryBank, SamplesPerInsert
from superbatch.errors import ConfigError
from superbatch.parted import PartedBank
from superbatch.places import check_ranks
from superbatch.recipes import recipe


def part_bank(part, parts):
    return MemoryBank(8 // parts, generator=torch.Generator().manual_seed(part), temperature=0.0)


def test_each_part_gives_the_best_of_its_own():
    bank = PartedBank(part_bank, parts=2, super_batch_size=8)
    examples = {"id": torch.arange(8), "draw": torch.arange(8, 16)}
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 0.0, 3.0, 1.0, 2.0])
    bank.add(examples, scores, 5)
    draw = bank.sample(4)
    assert draw.examples["id"].tolist() == [0, 1, 5, 7]
    assert draw.scores[draw.index].tolist() == [9.0, 8.0, 3.0, 2.0]
    assert draw.weights_step.tolist() == [5, 5, 5, 5]


def test_a_short_part_gives_what_it_has():
    bank = PartedBank(part_bank, parts=2, super_batch_size=8)
    bank.add({"id": torch.arange(5), "draw": torch.tensor([0, 1, 2, 3, 7])}, torch.arange(5.0))
    assert bank.sample(4).examples["draw"].tolist() == [2, 3, 7]


def test_the_parts_want_and_renew_together():
    def renewed(part, parts):
        return MemoryBank(
            16 // parts,
            generator=torch.Generator().manual_seed(part),
            limit=SamplesPerInsert(1.0, super_batch_size=4, sub_batch_size=2),
            max_staleness=1,
            score_again=(lambda held: torch.zeros(len(held["id"]))) if part else None,
        )

    bank = PartedBank(renewed, parts=2, super_batch_size=8)
    assert bank.wants(4)
    assert bank.accepts()
    draw = torch.arange(8)
    bank.add({"id": draw, "draw": draw}, torch.zeros(8), 0)
    assert not bank.wants(4)  # each part is owed two draws of 2
    bank.sample(4)
    bank.sample(4)
    assert bank.wants(4)
    bank.add({"id": draw, "draw": draw + 8}, torch.zeros(8), 0)
    bank.expire(2)
    assert len(bank) == 8
    bank.expire(3)  # the first part forgets what the second renews
    assert len(bank) == 4
    assert [bank.renew(step) for step in (3, 4)] == [4, 0]


@pytest.mark.parametrize(
    ("sections", "ranks", "message"),
    [
        ({}, 3, r"--select.super-batch-size is 32 over all ranks, and 3 .*; make it 30 or 33"),
        ({"select": {"sub_batch_size": 2}}, 4, r"sub-batch-size is 2 .*; make it 4"),
        (
            {"ranks": {"kind": "fsdp"}, "contrastive": {"score_patch": 16}},
            2,
            "resizes whole weights; take ddp",
        ),
        (
            {
                "ranks": {"kind": "fsdp"},
                "select": {"criterion": "rho_loss"},
                "reference_training": {"data": "past"},
            },
            2,
            "data past keeps a second one whole; take ddp",
        ),
        (
            {"ranks": {"kind": "fsdp"}, "select": {"criterion": "grad_norm_full"}},
            2,
            "criterion grad_norm_full takes it apart",
        ),
        (
            {
                "ranks": {"kind": "fsdp"},
                "select": {"criterion": "rho_loss"},
                "actors": {"kind": "process"},
            },
            2,
            "kind process sends it whole",
        ),
        ({"ranks": {"selection": "local"}, "select": {"joint": True}}, 4, "chooses 4 pairs in"),
        ({"reference_training": {"ahead": 2}}, 2, "2 ranks learn each its part"),
    ],
)
def test_what_ranks_cannot_do_is_refused(sections, ranks, message):
    with pytest.raises(ConfigError, match=message):
        check_ranks(
            recipe("hard")
            .changed(select={"super_batch_size": 32, "sub_batch_size": 16})
            .changed(**sections),
            ranks,
        )


def test_shards_are_refused_only_where_they_are_asked_for():
    check_ranks(recipe("hard").changed(ranks={"kind": "fsdp"}), 2)
    check_ranks(recipe("rho_loss").changed(actors={"kind": "process"}), 2)
