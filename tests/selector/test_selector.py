"""Three lines in somebody else's loop."""

import copy
import math
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_parts import (
    Column,
    Images,
    by_columns,
    cross_entropy,
    digits,
    made_up,
    selector,
    small,
    table,
)
from torch import nn
from torch.nn import functional

import superbatch
from superbatch.criterion import Criterion, easy, hard, learnability, rho_loss, uniform
from superbatch.selector import Selector
from superbatch.tasks import Classification, Contrastive


Pair = namedtuple("Pair", ["images", "targets"])

STRUCTURES = {
    "dict": lambda b: b,
    "tuple": lambda b: (b["image"], b["label"]),
    "list": lambda b: [b["image"], b["label"]],
    "named tuple": lambda b: Pair(b["image"], b["label"]),
    "dataclass": lambda b: Images(b["image"], b["label"], [f"n{i}" for i in b["id"]], 3),
    "other names": lambda b: {"pixel_values": b["image"], "labels": b["label"]},
    "nested": lambda b: ({"image": b["image"]}, b["label"]),
}


def train_step(learner, batch, optimizer):
    optimizer.zero_grad()
    loss = functional.cross_entropy(learner(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def learner_losses(loop, steps=6):
    """Of a learner with dropout, drawn from the global random state."""
    learner = small(0, width=32)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    torch.manual_seed(5)
    super_batches = [(b["image"], b["label"]) for b in digits(steps)]
    return [train_step(learner, batch, optimizer) for batch in loop(super_batches)]


def test_the_example_of_the_design_runs_as_written():
    small_one, trained_small, learner = small(1), small(2), small(0, width=32)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    loader = [(b["image"], b["label"]) for b in digits(4)]
    selector = superbatch.Selector(
        online=small_one,
        reference=trained_small,
        task=Classification(),
        criterion=learnability,
        filter_ratio=0.5,
        temperature=1.0,
    )
    for super_batch in loader:
        batch = selector.select(super_batch)
        train_step(learner, batch, optimizer)
        selector.learn(batch)
        assert isinstance(batch, tuple)
        assert [len(part) for part in batch] == [8, 8]
    assert selector.metrics["seen"] == 64
    assert selector.metrics["kept"] == 32


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_gives_the_same_rows_and_is_kept(name):
    wanted = selector().pick(next(digits(1)))
    batch = STRUCTURES[name](next(digits(1)))
    chooser = selector()
    picked = chooser.pick(batch)
    assert type(picked.batch) is type(batch)
    assert picked.index.tolist() == wanted.index.tolist()
    assert torch.equal(picked.scores, wanted.scores)
    assert float(chooser.learn(picked)) > 0
    if name == "dataclass":
        assert picked.batch.names == [f"n{i}" for i in picked.index]
        assert picked.batch.epoch == 3


def test_the_best_half_by_hand():
    batch = made_up([3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [2.0, 0.0, 4.0, 3.0, 1.0, 9.0])
    batch["id"] = torch.arange(10, 16)
    batch["text"] = list("abcdef")
    picked = by_columns().pick(batch)
    # online less reference: 1, 1, 0, -2, 4, 0
    assert picked.scores.tolist() == [1, 1, 0, -2, 4, 0]
    assert picked.index.tolist() == [0, 1, 4]
    assert picked.ids.tolist() == [10, 11, 14]
    assert picked.batch["text"] == ["a", "b", "e"]
    assert picked.batch["online"].tolist() == [3, 1, 5]
    assert picked.losses["reference"].tolist() == [2, 0, 4, 3, 1, 9]
    assert picked.probabilities.tolist() == [1, 1, 1]


def test_rho_loss_scores_with_the_learner_and_easy_with_the_reference():
    batch = made_up(
        [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], learner=torch.tensor([9.0, 1, 9, 1])
    )
    chooser = by_columns(criterion=rho_loss, learner=Column("learner"))
    assert chooser.pick(batch).index.tolist() == [0, 2]  # 8, -1, 6, -3
    assert chooser.learn(batch) is None  # it has no online model
    assert by_columns(criterion=easy).pick(batch).index.tolist() == [0, 1]


def test_the_rest_of_a_row_goes_with_it_into_parts():
    whole = selector().pick(next(digits(1)))
    parts = selector(micro_batch_size=5).pick(next(digits(1)))
    assert torch.allclose(whole.scores, parts.scores, atol=1e-6)
    pair = next(digits(1))["image"], next(digits(1))["label"]
    by_function = selector(task=cross_entropy, micro_batch_size=5).pick(pair)
    assert torch.allclose(whole.scores, by_function.scores, atol=1e-6)
    assert by_function.index.tolist() == whole.index.tolist()


def test_bf16_scores_are_near_and_losses_are_fp32():
    whole = selector().pick(next(digits(1)))
    rough = selector(bf16=True).pick(next(digits(1)))
    assert rough.scores.dtype == torch.float32
    assert not torch.equal(whole.scores, rough.scores)
    assert torch.allclose(whole.scores, rough.scores, atol=0.1)


def test_keeping_all_is_the_same_object_and_scores_nothing():
    class Untouchable(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(1, 1)

        def forward(self, image):
            raise AssertionError("scored")

    chooser = selector(filter_ratio=0, online=Untouchable(), reference=Untouchable())
    batch = next(digits(1))
    assert chooser.select(batch) is batch
    assert chooser.learn(batch) is None
    assert (chooser.seen, chooser.kept) == (16, 16)
    unusual = (batch["image"], batch["label"], batch["id"])
    assert chooser.select(unusual) is unusual


def test_keeping_all_reproduces_the_losses_to_the_last_digit():
    chooser = selector(filter_ratio=0.0)

    def with_selector(batches):
        for batch in batches:
            kept = chooser.select(batch)
            yield kept
            chooser.learn(kept)

    assert learner_losses(with_selector) == learner_losses(lambda batches: batches)


def test_selection_leaves_no_trace_on_models_or_random_state():
    chooser = selector()
    reference = copy.deepcopy(chooser._scorer.models["reference"])
    online = copy.deepcopy(chooser._scorer.models["online"])
    state = torch.get_rng_state()
    chooser.pick(next(digits(1)))
    assert torch.equal(torch.get_rng_state(), state)
    for role, before in (("reference", reference), ("online", online)):
        after = chooser._scorer.models[role]
        assert all(module.training for module in after.modules())
        for name, value in before.state_dict().items():
            assert torch.equal(value, after.state_dict()[name]), name
    chooser.learn(next(digits(1, rows=8)))
    assert torch.equal(torch.get_rng_state(), state)
    assert int(chooser._scorer.models["online"][2].num_batches_tracked) == 1
    assert int(chooser._scorer.models["reference"][2].num_batches_tracked) == 0


def test_the_online_model_takes_the_step_of_its_own_optimizer():
    online = Column("online")
    optimizer = torch.optim.SGD(online.parameters(), lr=0.5)
    chooser = by_columns(online=online, optimizer=optimizer)
    assert chooser.optimizer is optimizer
    kept = chooser.select(made_up([3.0, 1.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # whatever the caller's context
        loss = chooser.learn(kept)
    # mean of 3 gain and 5 gain: 4 at gain 1, gradient 4, step 0.5 * 4
    assert float(loss) == 4.0
    assert online.gain.item() == -1.0


@pytest.mark.parametrize("frozen", [False, True])
def test_an_online_model_that_comes_in_eval_mode_learns_in_train_mode(frozen):
    online = small(1)
    norm = next(part for part in online.modules() if isinstance(part, nn.BatchNorm1d))
    (norm if frozen else online).eval()
    chooser = selector(online=online)
    chooser.learn(chooser.select(next(digits(1))))
    assert int(norm.num_batches_tracked) == (0 if frozen else 1)


class Matching(nn.Module):
    """Two towers that tell every pair from every other, so that each step raises the scale."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(90.0)))

    def forward(self, image, text):
        embedding = functional.normalize(torch.eye(8)[text[:, 0]] + 0.97, dim=1)
        return embedding, embedding, self.logit_scale.exp()


def test_the_online_model_stays_within_the_bounds_of_its_task():
    online = Matching()
    optimizer = torch.optim.SGD(online.parameters(), lr=100.0)
    chooser = Selector(
        online=online,
        task=Contrastive("softmax"),
        criterion=hard,
        filter_ratio=0.5,
        optimizer=optimizer,
    )
    pairs = {"image": torch.zeros(8, 3, 2, 2), "text": torch.arange(8)[:, None]}
    chooser.learn(chooser.select(pairs))
    # CLIP's bound, which open_clip keeps after every step.
    assert online.logit_scale.exp().item() == pytest.approx(100.0)


def test_importance_weights_reach_the_step():
    chooser = by_columns(temperature=1.0, importance_exponent=1.0)
    batch = made_up([3.0, 1.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    picked = chooser.pick(batch)
    # half are kept, so each weighs 1/2 over how likely it was
    assert torch.allclose(picked.weights, 0.5 / picked.probabilities)
    assert float(chooser.learn(picked)) == pytest.approx(
        float((picked.weights * picked.batch["online"]).mean())
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40))
def test_flat_scores_choose_what_uniform_sampling_does(seed, rows):
    batch = made_up([1.5] * rows, [1.5] * rows)
    flat = by_columns(temperature=1.0, seed=seed)
    random = by_columns(criterion=uniform, seed=seed)
    for _ in range(3):
        first, second = flat.pick(batch), random.pick(batch)
        assert first.index.tolist() == second.index.tolist()
        assert second.scores is None


def test_uniform_sampling_takes_every_row_equally_often():
    random = by_columns(criterion=uniform, filter_ratio=0.75)
    batch = made_up([0.0] * 8, [0.0] * 8)
    counts = torch.zeros(8)
    for _ in range(2000):
        counts[random.pick(batch).index] += 1
    # 500 expected each; the standard deviation of a count is sqrt(2000 * 1/4 * 3/4) = 19.4
    assert (counts - 500).abs().max() < 5 * 19.4


def test_seeds_and_steps_draw_differently():
    batch = made_up([0.0] * 32, [0.0] * 32)
    chooser, other = by_columns(temperature=1.0), by_columns(temperature=1.0, seed=1)
    first, second = chooser.pick(batch).index.tolist(), chooser.pick(batch).index.tolist()
    assert first != second
    assert first != other.pick(batch).index.tolist()


def picks(chooser, super_batches):
    found = []
    for super_batch in super_batches:
        picked = chooser.pick(super_batch)
        chooser.learn(picked)
        found.append(picked.index.tolist())
    return found


def test_a_resumed_selector_picks_the_same_rows(tmp_path):
    batches = list(digits(10))
    whole = picks(selector(), batches)
    chooser = selector()
    assert picks(chooser, batches[:4]) == whole[:4]
    torch.save(chooser.state_dict(), tmp_path / "state.pt")
    resumed = selector(online=small(9))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert picks(resumed, batches[4:]) == whole[4:]
    assert (resumed.steps, resumed.seen, resumed.kept) == (10, 160, 80)
    # and without the state they are others
    assert picks(selector(online=small(9)), batches[4:]) != whole[4:]


def test_a_table_takes_the_place_of_the_reference(tmp_path):
    losses = table(tmp_path / "t.parquet", range(10, 16), [2.0, 0.0, 4.0, 3.0, 1.0, 9.0])
    batch = made_up([3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [0.0] * 6, ids=torch.arange(10, 16))
    assert by_columns(reference=losses).pick(batch).index.tolist() == [0, 1, 4]
    del batch["ids"]
    batch["key"] = list(range(10, 16))
    found = by_columns(reference=losses, ids=lambda b: b["key"]).pick(batch)
    assert found.index.tolist() == [0, 1, 4]
    assert found.ids.tolist() == [10, 11, 14]


def test_a_reader_says_what_is_what_and_finds_ids():
    batch = next(digits(1))
    triple = batch["label"], batch["id"], batch["image"]
    chooser = selector(read=lambda b: {"image": b[2], "label": b[0], "id": b[1]})
    picked = chooser.pick(triple)
    assert picked.index.tolist() == selector().pick(batch).index.tolist()
    assert picked.ids.tolist() == batch["id"][picked.index].tolist()


def test_metrics_by_hand():
    chooser = by_columns()
    chooser.pick(made_up([1.0, 2.0, 3.0, math.inf], [0.0] * 4))
    found = chooser.metrics
    # of 1, 2, 3 the best two are 0.5 above the mean, in units of sqrt(2/3)
    assert found["kept_gain"] == pytest.approx(0.5 / math.sqrt(2 / 3))
    assert found["score_std"] == pytest.approx(math.sqrt(2 / 3))
    assert found["effective_sample_size"] == 1
    assert found["not_finite"] == 1
    assert (found["steps"], found["seen"], found["kept"], found["off"]) == (1, 4, 2, 0)
    assert all(type(value) in (int, float) for value in found.values())


def test_ranks_and_means_of_scores_are_the_criterions():
    above = Criterion({"online": 1.0}, shape=lambda sums: (sums > sums.mean()).float())
    picked = by_columns(criterion=above).pick(made_up([0.0, 8.0, 1.0, 7.0], [0.0] * 4))
    assert picked.scores.tolist() == [0, 1, 0, 1]


def test_models_move_with_what_their_optimizer_keeps():
    chooser = selector(optimizer=None)
    chooser.learn(chooser.pick(next(digits(1))))
    assert chooser.to("meta") is chooser
    kept = chooser.optimizer.state.values()
    assert {v.device.type for s in kept for v in s.values() if v.ndim} == {"meta"}
    assert {p.device.type for p in chooser._scorer.models["reference"].parameters()} == {"meta"}


def test_a_task_of_the_users_own_sees_its_own_structure():
    def tagged(model, batch):
        assert set(batch) == {"views", "tag"}
        return functional.cross_entropy(
            model(batch["views"][0]), batch["views"][1], reduction="none"
        )

    batch = next(digits(1))
    own = {"views": (batch["image"], batch["label"]), "tag": "train"}
    chooser = Selector(task=tagged, online=small(1), reference=small(2), filter_ratio=0.5)
    kept = chooser.select(own)
    assert kept["tag"] == "train"
    assert len(kept["views"][0]) == 8
    assert float(chooser.learn(kept)) > 0


def test_names_are_there_and_importing_waits_for_torch():
    assert superbatch.criterion.learnability is learnability
    assert superbatch.tasks.Classification is Classification
    code = "import sys, superbatch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = superbatch.no_such_name
