"""Two processes that share one batch of 12 pairs against one process that has it all."""

import importlib.util
import math
import os

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional

from superbatch.distributed import (
    any_rank,
    counts,
    from_main,
    gather_rows,
    share_of_choice,
    united,
    world,
)
from superbatch.errors import ConfigError, RunError
from superbatch.selection import sample_indices
from superbatch.tasks import Contrastive


COUNT, RANKS = 12, 2


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(48, 8)
        self.text = nn.EmbeddingBag(20, 8)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, image, text):
        towers = self.image(image.flatten(1)), self.text(text)
        return (
            *(functional.normalize(out) for out in towers),
            self.logit_scale.exp(),
            self.logit_bias,
        )


def pairs():
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(COUNT),
        "image": torch.randn(COUNT, 3, 4, 4, generator=generator),
        "text": torch.randint(20, (COUNT, 5), generator=generator),
    }


def gradients(loss):
    model = Towers()
    value = Contrastive(loss).learn_loss(model, own(pairs()))
    value.backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}


def own(batch):
    rank, ranks = world()
    share = COUNT // ranks
    return {name: field[rank * share : (rank + 1) * share] for name, field in batch.items()}


def choice(scores, ids):
    generator = torch.Generator().manual_seed(3)
    return ids[share_of_choice(sample_indices(scores, 6, generator=generator))]


def open_clips_losses():
    """Its module of losses alone: all of open_clip takes each rank ten seconds to import."""
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("losses", f"{folder}/loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_clips_loss(loss, rank):
    losses, here = open_clips_losses(), {"rank": rank, "world_size": RANKS}
    if loss == "softmax":
        theirs = losses.ClipLoss(local_loss=True, gather_with_grad=True, **here)
    else:
        theirs = losses.SigLipLoss(**here)
    shown = own(pairs())
    return theirs(*Towers()(shown["image"], shown["text"])).detach()


def unequal(rank):
    """Rows of a rank that has one more than the other, and what they weigh in a sum of all."""
    rows = torch.full((1 + rank, 2), float(rank), requires_grad=True)
    gathered = gather_rows(rows)
    (gathered * torch.tensor([[1.0], [10.0], [100.0]])).sum().backward()
    return gathered.detach(), rows.grad


def refuse():
    raise RunError("there is a run already")


def work(rank, folder):
    """What one rank found out, written for the tests to read."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    found = {"world": world()}
    for loss in ("softmax", "sigmoid"):
        found[loss], mean = gradients(loss)
        for gradient in mean.values():
            distributed.all_reduce(gradient)
            gradient /= RANKS
        found[f"{loss} gradients"] = mean
        found[f"{loss} of open_clip"] = open_clips_loss(loss, rank)
        act = Contrastive(loss, "contrastive").act_loss(Towers(), own(pairs()))
        found[f"{loss} act"] = act.detach()
    scores = Contrastive("softmax", score_scale=20.0).act_loss(Towers(), own(pairs())).detach()
    found["scores"] = gather_rows(scores)
    found["ids"] = gather_rows(own(pairs())["id"])
    found["choice"] = choice(found["scores"], found["ids"])
    found["unequal"] = unequal(rank)
    found["united"] = united({3, 5 + rank})
    found["counts"] = counts(7 - rank)
    found["any"] = any_rank(rank == 1), any_rank(False)
    found["said"] = from_main(lambda: f"by {rank}")
    try:
        from_main(refuse)
    except RunError as error:
        found["refused"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.barrier()
    # All is written. gloo's own threads may abort a process that goes on to tidy up.
    os._exit(0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def test_each_process_knows_its_place(ranks):
    assert [found["world"] for found in ranks] == [(0, 2), (1, 2)]
    assert world() == (0, 1)


def test_rows_are_gathered_in_the_order_of_ranks(ranks):
    for found in ranks:
        assert torch.equal(found["ids"], pairs()["id"])


def test_one_process_has_all_rows():
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_of_each_rank_is_open_clips(ranks, loss):
    for found in ranks:
        assert float(found[loss]) == pytest.approx(float(found[f"{loss} of open_clip"]), abs=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_their_mean_is_the_loss_of_the_whole_batch(ranks, loss):
    whole, _ = gradients(loss)
    assert sum(float(found[loss]) for found in ranks) / RANKS == pytest.approx(float(whole), 1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_mean_gradient_is_that_of_the_whole_batch(ranks, loss):
    _, whole = gradients(loss)
    for found in ranks:
        for name, gradient in whole.items():
            assert torch.allclose(found[f"{loss} gradients"][name], gradient, atol=1e-5), name


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_negatives_of_a_score_are_those_of_all_ranks(ranks, loss):
    whole = Contrastive(loss, "contrastive").act_loss(Towers(), pairs())
    assert torch.allclose(torch.cat([found[f"{loss} act"] for found in ranks]), whole, atol=1e-5)


def test_the_ranks_choose_together_what_one_process_chooses(ranks):
    scores = Contrastive("softmax", score_scale=20.0).act_loss(Towers(), pairs()).detach()
    alone = choice(scores, pairs()["id"])
    assert [len(found["choice"]) for found in ranks] == [3, 3]
    assert torch.equal(torch.cat([found["choice"] for found in ranks]), alone)


def test_ranks_may_have_different_numbers_of_rows(ranks):
    for found in ranks:
        assert found["unequal"][0][:, 0].tolist() == [0.0, 1.0, 1.0]
    # Each of the two ranks has summed all rows, so every weight comes back twice.
    assert ranks[0]["unequal"][1].tolist() == [[2.0, 2.0]]
    assert ranks[1]["unequal"][1].tolist() == [[20.0, 20.0], [200.0, 200.0]]


def test_a_choice_is_shared_as_equally_as_can_be(monkeypatch):
    monkeypatch.setattr("superbatch.distributed.world", lambda: (1, 4))
    assert share_of_choice(torch.arange(8)).tolist() == [2, 3]
    assert share_of_choice(torch.arange(6)).tolist() == [1, 2]
    with pytest.raises(ConfigError, match="a sub-batch of 3 cannot be shared by 4 ranks; make it"):
        share_of_choice(torch.arange(3))


def test_small_facts_are_the_same_on_every_rank(ranks):
    for found in ranks:
        assert found["united"] == [3, 5, 6]
        assert found["counts"] == [7, 6]
        assert found["any"] == (True, False)


def test_rank_0_speaks_for_all_and_its_error_is_everyones(ranks):
    for found in ranks:
        assert found["said"] == "by 0"
        assert found["refused"] == "there is a run already"


def test_one_process_speaks_for_itself():
    assert from_main(lambda: 3) == 3
    assert united({2, 1}) == [1, 2]
    assert (counts(4), any_rank(True), any_rank(False)) == ([4], True, False)
