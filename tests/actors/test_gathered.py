"""A rank's share of what all ranks chose."""

import pytest
import torch

from superbatch.actors.gathered import Shares, refuse_empty
from superbatch.errors import DataError


def test_a_rank_learns_from_its_share_and_reads_what_it_does_not_hold(monkeypatch):
    monkeypatch.setattr("superbatch.distributed.world", lambda: (1, 2))

    def read(draws):
        return {"id": draws + 100, "draw": draws, "image": draws[:, None] * 10}

    shares = Shares(read)
    shares.hold({**read(torch.tensor([4, 6, 5, 7])), "logits/learner/image": torch.zeros(4, 2)})
    draws = torch.tensor([0, 1, 2, 3, 7, 2, 6, 4])
    chosen = {"id": draws + 100, "draw": draws, "weight": torch.arange(8.0)}
    share = shares(chosen)
    assert share["draw"].tolist() == [7, 2, 6, 4]
    assert share["id"].tolist() == [107, 102, 106, 104]
    assert share["image"].flatten().tolist() == [70, 20, 60, 40]
    assert share["weight"].tolist() == [4.0, 5.0, 6.0, 7.0]  # what the bank said of them
    assert shares.read_again == 1


def test_an_image_that_only_another_rank_can_read_is_an_error(monkeypatch):
    monkeypatch.setattr("superbatch.distributed.world", lambda: (0, 2))
    held = {"id": torch.arange(2), "draw": torch.arange(2), "image": torch.zeros(2, 1)}
    shares = Shares(lambda draws: {name: field[:0] for name, field in held.items()})
    shares.hold(held)
    with pytest.raises(DataError, match=r"1 images that were read when .* cannot be decoded"):
        shares({"id": torch.arange(4), "draw": torch.tensor([0, 9, 3, 4])})


@pytest.mark.parametrize("held", [[], [3]])
def test_another_example_of_the_same_draw_is_an_error(held):
    def read(draws):
        return {"id": draws + 100, "draw": draws, "image": draws[:, None]}

    shares = Shares(read)
    shares.hold(read(torch.tensor(held)) if held else {})
    with pytest.raises(DataError, match="draw 4 was example 105 when it was scored and is 104"):
        shares({"id": torch.tensor([103, 105]), "draw": torch.tensor([3, 4])})


def test_a_rank_without_one_readable_image_learns_from_what_others_could_read(monkeypatch):
    monkeypatch.setattr("superbatch.distributed.world", lambda: (0, 2))

    def read(draws):
        return {"id": draws + 100, "draw": draws, "image": draws[:, None]}

    shares = Shares(read)
    shares.hold(read(torch.arange(0)))
    draws = torch.tensor([4, 5, 6, 7])
    assert shares({"id": draws + 100, "draw": draws})["image"].tolist() == [[4], [5]]
    with pytest.raises(DataError, match="not one image of a super-batch can be decoded, on any"):
        refuse_empty(0)


def test_one_process_learns_from_what_was_chosen_as_it_is():
    shares = Shares(lambda draws: pytest.fail("nothing is read again"))
    batch = {"id": torch.arange(3), "draw": torch.arange(3), "image": torch.zeros(3, 1)}
    shares.hold(batch)
    assert shares(batch) is batch


def test_what_a_bank_did_not_keep_is_read_again_also_before_anything_arrived():
    asked = []

    def read(draws):
        asked.append(draws.tolist())
        return {"id": draws + 100, "draw": draws, "image": draws[:, None]}

    shares = Shares(read)
    draws = torch.tensor([4, 2])
    small = {"id": draws + 100, "draw": draws, "weight": torch.tensor([0.5, 2.0])}
    assert shares(small)["image"].tolist() == [[4], [2]]
    assert shares(small)["weight"].tolist() == [0.5, 2.0]
    shares.hold(read(torch.tensor([2, 3])))
    assert shares(small)["image"].tolist() == [[4], [2]]
    shares.hold(small)  # scored elsewhere: there is nothing to hold
    assert shares(small)["image"].tolist() == [[4], [2]]
    assert asked == [[4, 2], [4, 2], [2, 3], [4], [4, 2]]
