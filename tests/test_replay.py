"""A run's order, learned from without scoring, makes the run's learner: bit for bit."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from superbatch import training
from superbatch.errors import ConfigError, DataError, Stopped
from superbatch.orders import policy_order, replay_order, write_order
from superbatch.recipes import recipe
from superbatch.surroundings import Surroundings


TINY = "mu-2400/4"


def config(name, out, **sections):
    base = recipe(name).changed(
        steps=6,
        seed=1,
        out=str(out),
        device="cpu",
        models={"learner": TINY, "online": TINY, "reference": TINY},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        data={"flip": True, "crop_padding": 1, "label_noise": 0.2},
        record={"checkpoint_every": 4},
    )
    return base.changed(**sections)


def weights(run):
    return load_file(run / "checkpoints" / "learner.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def replayed(order, out, **sections):
    sections["data"] = {"order": str(order)} | sections.get("data", {})
    return config("uniform", out, **sections)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run of classact and its order."""
    folder = tmp_path_factory.mktemp("live")
    training.start(config("classact", folder / "run"))
    write_order(replay_order(folder / "run"), folder / "order.parquet")
    return folder


def test_a_replay_is_the_run_bit_for_bit(live, tmp_path):
    summary = training.start(replayed(live / "order.parquet", tmp_path / "replay"))
    assert same(weights(tmp_path / "replay"), weights(live / "run"))
    # It cost what uniform training costs: nothing was scored, nothing learned but the learner.
    training.start(config("uniform", tmp_path / "uniform"))
    plain = training.resume(tmp_path / "uniform")
    assert summary["flops"] == plain["flops"]
    assert summary["examples_seen"] == summary["examples_learned"] == 6 * 16
    assert not same(weights(tmp_path / "uniform"), weights(live / "run"))


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("classact", {"score_view": "plain"}),
        ("classact", {"select": {"bank_super_batches": 3, "max_times_sampled": 2}}),
        ("hard", {"optimise": {"ema_decay": 0.9, "label_smoothing": 0.1}}),
    ],
)
def test_other_ways_to_choose_are_replayed_too(name, sections, tmp_path):
    training.start(config(name, tmp_path / "run", **sections))
    write_order(replay_order(tmp_path / "run"), tmp_path / "order.parquet")
    kept = {name: value for name, value in sections.items() if name == "optimise"}
    training.start(replayed(tmp_path / "order.parquet", tmp_path / "replay", **kept))
    assert same(weights(tmp_path / "replay"), weights(tmp_path / "run"))


def test_the_order_of_a_replay_is_the_order(live, tmp_path):
    training.start(replayed(live / "order.parquet", tmp_path / "replay"))
    first, second = replay_order(live / "run"), replay_order(tmp_path / "replay")
    assert second.ids.tolist() == first.ids.tolist()
    assert second.draws.tolist() == first.draws.tolist()
    assert second.steps.tolist() == first.steps.tolist()


def test_a_replay_that_is_stopped_and_resumed_is_the_run(live, tmp_path):
    asked = iter(range(1, 100))
    with pytest.raises(Stopped):
        training.start(
            replayed(live / "order.parquet", tmp_path / "replay"),
            Surroundings(stop=lambda: next(asked) >= 2),
        )
    training.resume(tmp_path / "replay")
    assert same(weights(tmp_path / "replay"), weights(live / "run"))


@pytest.fixture(scope="module")
def with_a_broken_image(tmp_path_factory):
    """128 pictures of noise, one of which is broken and is trained on: it leaves steps short."""
    path = tmp_path_factory.mktemp("data") / "noise.parquet"
    random = np.random.default_rng(0)
    images = []
    for _ in range(128):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    images[BROKEN] = b"junk"
    labels = random.integers(0, 3, 128)
    pq.write_table(pa.table({"id": range(128), "image": images, "label": labels}), path)
    return path


BROKEN = 5


def test_a_run_with_short_steps_is_replayed_whole_and_exactly(with_a_broken_image, tmp_path):
    data = {"path": str(with_a_broken_image), "memory_gb": 0.0, "label_noise": 0.0}
    sections = {"steps": 8, "select": {"super_batch_size": 32, "sub_batch_size": 32}, "data": data}
    training.start(config("uniform", tmp_path / "run", **sections))
    order = replay_order(tmp_path / "run")
    assert set(np.bincount(order.steps)[1:].tolist()) == {31, 32}
    write_order(order, tmp_path / "order.parquet")
    # Kept in memory, it is the same data: what is read, what is split off, and its name.
    kept = sections | {"data": data | {"memory_gb": 2.0}}
    training.start(replayed(tmp_path / "order.parquet", tmp_path / "replay", **kept))
    assert same(weights(tmp_path / "replay"), weights(tmp_path / "run"))
    assert replay_order(tmp_path / "replay").steps.tolist() == order.steps.tolist()
    longer = kept | {"steps": 9}
    with pytest.raises(ConfigError, match=r"is 8 steps of its run and 9 are wanted; set --steps"):
        training.start(replayed(tmp_path / "order.parquet", tmp_path / "longer", **longer))


def test_a_policy_order_trains_another_learner_for_longer(live, tmp_path):
    write_order(policy_order([live / "run"], examples=9 * 20), tmp_path / "order.parquet")
    sections = {
        "steps": 9,
        "seed": 7,
        "models": {"learner": "mu-1000/4"},
        "select": {"sub_batch_size": 20},
    }
    summary = training.start(replayed(tmp_path / "order.parquet", tmp_path / "replay", **sections))
    assert summary["examples_learned"] == 180


def test_orders_that_do_not_fit_are_refused_before_anything_is_written(live, tmp_path):
    order = live / "order.parquet"
    with pytest.raises(ConfigError, match=r"96 examples and 7 steps of 16 learn from 112"):
        training.start(replayed(order, tmp_path / "replay", steps=7))
    with pytest.raises(DataError, match=r"kept from training here.*--data.evaluation-fraction 0.2"):
        training.start(replayed(order, tmp_path / "replay", data={"evaluation_fraction": 0.5}))
    with pytest.raises(DataError, match="the order is of other data"):
        training.start(replayed(order, tmp_path / "replay", data={"label_noise": 0.0}))
    for name in ("hard", "rs2"):  # what is chosen already would be chosen from again
        with pytest.raises(ConfigError, match="take recipe uniform"):
            training.start(config(name, tmp_path / "replay", data={"order": str(order)}))
    assert not (tmp_path / "replay").exists()
