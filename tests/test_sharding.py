"""A learner on 2 and 4 ranks, whole on each or in shards, against the learner of one process."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from ranked import spawn
from superbatch.distributed import share, world
from superbatch.learner import Learner, Optimisation
from superbatch.sharding import shard, whole
from superbatch.tasks import Classification, Contrastive


pytestmark = pytest.mark.slow  # processes that wait for each other
KINDS, TASKS = ("ddp", "fsdp"), ("labels", "softmax", "sigmoid")
PARTS = ((0, 16), (2, 13))  # examples in a pass and in all: 13 are 3, 3, 3 and 4 of four ranks
CASES = [(kind, task, *parts) for kind, task, parts in product(KINDS, TASKS, PARTS)]
# Four ranks in shards are slow on two cores: only the harder cases.
ON_FOUR = [case for case in CASES if case[0] == "ddp" or case[2]]
RESUMED = [case for case in CASES if case[-1] == 13]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + functional.gelu(self.linear(self.norm(x)))


class Tower(nn.Module):
    """Layers that nothing uses come too, as they do in foreign models."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.first = nn.Linear(inputs, 10)
        self.blocks = nn.Sequential(Block(10), Block(10))
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(10, outputs)

    def forward(self, x):
        return self.last(self.blocks(self.first(x.flatten(1).float())))


class Towers(nn.Module):
    def __init__(self, sigmoid):
        super().__init__()
        self.visual, self.text = Tower(48, 8), Tower(5, 8)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0)) if sigmoid else None

    def forward(self, image, text):
        towers = self.visual(image), self.text(text)
        units = [functional.normalize(out) for out in towers]
        found = (*units, self.logit_scale.exp())
        return found if self.logit_bias is None else (*found, self.logit_bias)


def learner_of(kind, task, micro):
    torch.manual_seed(0)
    model = Tower(48, 3) if task == "labels" else Towers(task == "sigmoid")
    if kind == "fsdp":
        shard(model, torch.device("cpu"))
    settings = Optimisation(
        schedule=lambda step: 1e-2, clip_norm=0.5, micro_batch_size=micro, ema_decay=0.9
    )
    return Learner(model, Classification() if task == "labels" else Contrastive(task), settings)


def batch_of(step, rows):
    """The part of this rank of the batch of ``step``."""
    generator = torch.Generator().manual_seed(step)
    whole_batch = {
        "id": torch.arange(rows),
        "image": torch.randn(rows, 3, 4, 4, generator=generator),
        "text": torch.randint(20, (rows, 5), generator=generator),
        "label": torch.randint(3, (rows,), generator=generator),
    }
    rank, ranks = world()
    return {name: field[share(rows, rank, ranks)] for name, field in whole_batch.items()}


def learned(case, learner=None, steps=(1, 2)):
    """What a learner came to, whole."""
    kind, task, micro, rows = case
    learner = learner or learner_of(kind, task, micro)
    losses = [learner.step(batch_of(step, rows)) for step in steps]
    gradients = {
        name: torch.empty(0) if p.grad is None else p.grad
        for name, p in learner.model.named_parameters()
    }
    scores = learner.losses(batch_of(9, rows))
    return {
        "losses": torch.stack(losses),
        "gradients": whole(gradients),
        "weights": learner.evaluated_weights(),
        "state": learner.state_dict(),
        "scores": scores,
        "examples": learner.examples,
        "recomputes": learner.recomputes,
    }


def work(rank, folder):
    found = {case: learned(case) for case in (CASES if world()[1] == 2 else ON_FOUR)}
    # What other numbers of ranks left is gone on with.
    for case in RESUMED:
        path = folder / f"{'-'.join(map(str, case))}.pt"
        if path.is_file():
            learner = learner_of(*case[:3])
            learner.load_state_dict(torch.load(path))
            found["resumed", *case] = learned(case, learner, steps=(3,))
    return found


@pytest.fixture(scope="module")
def alone():
    return {case: learned(("ddp", *case[1:])) for case in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, alone):
    """What 2 and 4 ranks found, the 4 after they went on with what the 2 had left."""
    folder = tmp_path_factory.mktemp("learners")
    two = spawn(work, 2, folder)
    for case in RESUMED:
        other = ("fsdp" if case[0] == "ddp" else "ddp", *case[1:])
        torch.save(two[0][other]["state"], folder / f"{'-'.join(map(str, case))}.pt")
    return {2: two, 4: spawn(work, 4, folder)}


def same(found, expected, relative=1e-5):
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-12)
        assert error < relative, (name, float(error))


MET = [(count, case) for count in (2, 4) for case in CASES if count == 2 or case in ON_FOUR]


@pytest.mark.parametrize(("count", "case"), MET, ids=str)
def test_gradients_and_weights_are_those_of_one_process(case, count, ranks, alone):
    found, expected = ranks[count][0][case], alone[case]
    same(found["gradients"], expected["gradients"])
    same(found["weights"], expected["weights"])
    assert torch.allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert found["examples"] == case[-1]
    assert found["recomputes"] == (case[1] != "labels" and case[2] > 0)


@pytest.mark.parametrize(("count", "case"), MET, ids=str)
def test_scores_of_all_ranks_are_those_of_one_process(case, count, ranks, alone):
    scores = torch.cat([found[case]["scores"] for found in ranks[count]])
    assert torch.allclose(scores, alone[case]["scores"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ON_FOUR, ids=str)
def test_every_rank_has_the_same_loss(case, ranks):
    losses = [found[case]["losses"] for found in ranks[4]]
    assert all(torch.equal(one, losses[0]) for one in losses)


@pytest.mark.parametrize("case", RESUMED, ids=str)
def test_a_learner_goes_on_with_other_ranks_and_in_the_other_kind(case, ranks):
    expected = learned(("ddp", *case[1:]), steps=(1, 2, 3))
    found = ranks[4][0]["resumed", *case]
    same(found["weights"], expected["weights"])
    # ... and in one process
    learner = learner_of("ddp", *case[1:3])
    learner.load_state_dict(ranks[4][0][case]["state"])
    same(learned(case, learner, steps=(3,))["weights"], expected["weights"])


def test_a_layer_that_is_not_used_is_left_alone(ranks):
    for kind in KINDS:
        found = ranks[2][0][kind, "labels", 0, 16]
        assert found["gradients"]["unused.weight"].numel() == 0
        torch.manual_seed(0)
        assert torch.equal(found["weights"]["unused.weight"], Tower(48, 3).unused.weight.detach())
