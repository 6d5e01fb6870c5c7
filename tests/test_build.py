"""What a configuration says is what the parts of a run are told."""

import math

import numpy as np
import pytest
import torch

from superbatch.bank import MemoryBank
from superbatch.build import bank_of, criterion_of, learner_of, part_bank_of
from superbatch.criterion import CRITERIA
from superbatch.joint import JointBank
from superbatch.problems import problem_of
from superbatch.recipes import recipe


CPU = torch.device("cpu")
SMALL = {"learner": "mu-2400/4", "online": "mu-2400/4", "reference": "mu-2400/4"}


@pytest.fixture(scope="module")
def learners():
    """By role, of a run of 20 steps with settings that are none of the defaults."""
    config = recipe("classact_online").changed(
        steps=20,
        models=SMALL,
        optimise={
            "learning_rate": 0.004,
            "weight_decay": 0.3,
            "beta2": 0.95,
            "warmup_fraction": 0.2,
            "clip_norm": 0.5,
            "micro_batch_size": 7,
            "ema_decay": 0.9,
        },
        reference_training={"learning_rate_ratio": 3.0},
    )
    problem = problem_of(config)
    return {role: learner_of(config, role, problem, CPU) for role in SMALL}


@pytest.mark.parametrize(
    ("role", "peak"), [("learner", 0.004), ("online", 0.004), ("reference", 0.012)]
)
def test_rates_rise_fall_and_are_higher_for_a_reference_that_learns_alongside(role, peak, learners):
    rate = learners[role].optimisation.schedule
    # A fifth of 20 updates is warm-up; the cosine of the other 16 is half way down after 8.
    found = [rate(step) for step in (1, 4, 12, 20)]
    assert found == pytest.approx([peak / 4, peak, peak / 2, 0.0])
    assert learners[role].optimizer.param_groups[0]["lr"] == pytest.approx(peak / 4)


@pytest.mark.parametrize("role", SMALL)
def test_every_model_descends_as_configured(role, learners):
    matrices, others = learners[role].optimizer.param_groups[:2]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert matrices["betas"] == others["betas"] == (0.9, 0.95)
    assert learners[role].optimisation.clip_norm == 0.5
    assert learners[role].optimisation.micro_batch_size == 7


def test_only_the_learner_keeps_an_average_of_its_weights(learners):
    kept = {role: learner.optimisation.ema_decay for role, learner in learners.items()}
    assert kept == {"learner": 0.9, "online": 0.0, "reference": 0.0}


def test_models_of_the_same_size_begin_with_weights_of_their_own(learners):
    heads = [learner.model.head.weight for learner in learners.values()]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


@pytest.mark.parametrize("first", ["softmax", "uniform"])
def test_a_joint_choice_is_made_as_configured(first):
    select = {"chunks": 4, "first_chunk": first, "temperature": 0.5}
    config = recipe("jest").changed(select=select, contrastive={"loss": "softmax"})
    bank = bank_of(config)
    assert isinstance(bank, JointBank)
    assert (bank.first, bank.chunks, bank.temperature, bank.loss) == (first, 4, 0.5, "softmax")
    assert bank.weights == {"learner": 1.0, "reference": -1.0}


@pytest.mark.parametrize(
    ("select", "removal", "super_batches"),
    [
        ({"bank_super_batches": 3}, "oldest", 3),
        ({"bank_super_batches": 3, "bank_removal": "lowest"}, "lowest", None),
        ({"bank_examples": 384}, "oldest", None),
    ],
)
def test_a_memory_bank_makes_room_as_configured(select, removal, super_batches):
    base = {"super_batch_size": 128, "temperature": 0.5, "max_times_sampled": 2}
    bank = bank_of(recipe("classact").changed(select=base | select))
    assert isinstance(bank, MemoryBank)
    assert (bank.removal, bank.super_batches, bank.capacity) == (removal, super_batches, 384)
    assert (bank.temperature, bank.max_times_sampled) == (0.5, 2)


def test_stale_scores_are_renewed_only_if_so_configured():
    def again(batch):
        return batch["id"].float()

    for when, expected in (("rescore", again), ("drop", None)):
        select = {"max_staleness": 2, "when_stale": when}
        bank = bank_of(recipe("classact").changed(select=select), again)
        assert bank.score_again is expected
        assert bank.max_staleness == 2


def test_a_criterion_is_found_by_its_name():
    assert criterion_of(recipe("classact")) is CRITERIA["learnability"]
    assert criterion_of(recipe("jest")) is CRITERIA["rho_loss"]


def test_parts_of_a_bank_choose_independently():
    config = recipe("classact").changed(select={"super_batch_size": 64})
    chosen = []
    for part in (0, 1, 0):
        bank = part_bank_of(config, None, "cpu", part, 2)
        assert bank.capacity == 32
        bank.add({"id": torch.arange(32)}, torch.zeros(32))
        chosen.append(bank.sample(16).index.tolist())
    assert chosen[0] == chosen[2]
    # Of two halves of 32 one in 10^8 pairs is the same.
    assert math.comb(32, 16) > 10**8
    assert chosen[0] != chosen[1]


def test_labels_to_evaluate_on_are_in_the_column_that_is_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    learned, checked = [0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]
    np.savez(tmp_path / "a.npz", x=pixels, y=learned, human=checked)
    path = str(tmp_path / "a.npz")
    data = {"path": path, "eval_path": path, "eval_label": "human", "label": "y"}
    problem = problem_of(recipe("uniform").changed(data=data))
    (batch,) = problem.evaluation_batches()
    assert batch["label"].tolist() == checked
    assert problem.examples.read(np.arange(6))["label"].tolist() == learned
