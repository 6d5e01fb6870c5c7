"""The whole program against Algorithm 1 of the paper, worked out beside it."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch.nn import functional

from superbatch import training
from superbatch.flops import forward_flops
from superbatch.models.build import build_model
from superbatch.recipes import RECIPES, recipe
from superbatch.seeds import derived_seed
from superbatch.sources import permuted
from superbatch.surroundings import Surroundings


TINY = {"learner": "mu-1000/4", "online": "mu-2400/4", "reference": "mu-2400/4"}


ON_LABELS = sorted(name for name in RECIPES if recipe(name).task == "classification")


def tiny(name, out, *, steps=6, **sections):
    config = recipe(name).changed(
        steps=steps,
        seed=3,
        out=str(out),
        models=TINY,
        select={"super_batch_size": 32, "sub_batch_size": 16},
        record={"log_every": 1, "evaluate_every": 100, "checkpoint_every": 100},
    )
    return config.changed(**sections)


def selection(out):
    parts = sorted((out / "selection").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def digits(ids):
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images[ids] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(labels[ids])


def test_uniform_is_a_plain_pytorch_loop(tmp_path):
    config = tiny("uniform", tmp_path / "run", optimise={"warmup_fraction": 0.0})
    training.start(config)
    ours = load_file(tmp_path / "run" / "checkpoints" / "learner.safetensors")

    table = selection(tmp_path / "run")
    chosen = table["id"].to_numpy().reshape(6, 16)
    model = build_model(
        "mu-1000/4",
        image_size=8,
        channels=1,
        classes=10,
        seed=derived_seed(3, "weights", "learner"),
    )
    tokens = ("pos_embed", "cls_token")
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and n not in tokens]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or n in tokens]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        fused=True,
    )
    for step in range(1, 7):
        pixels, labels = digits(chosen[step - 1])
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.5 * (1 + math.cos(math.pi * step / 6)))
        loss = functional.cross_entropy(model(pixels.float() / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, ours[name]), name


def test_the_stream_of_ids_is_the_keyed_permutation_of_the_pool(tmp_path):
    training.start(tiny("uniform", tmp_path / "run"))
    ids = selection(tmp_path / "run")["id"].to_numpy()
    order = permuted(np.arange(1797), length=1797, seed=derived_seed(0, "splits"))
    evaluated = set(order[: round(0.2 * 1797)].tolist())
    assert len(set(ids.tolist())) == len(ids) == 96
    assert not evaluated & set(ids.tolist())


def test_choices_and_scores_are_algorithm_1(tmp_path):
    training.start(tiny("classact", tmp_path / "run", steps=1))
    table = selection(tmp_path / "run")
    columns = {name: table[name].to_numpy() for name in table.column_names}

    # Line 2: both models score the super-batch before any update.
    pixels, labels = digits(columns["id"])
    image = pixels.float() / 127.5 - 1
    models = {
        "online": build_model(
            "mu-2400/4",
            image_size=8,
            channels=1,
            classes=10,
            seed=derived_seed(3, "weights", "online"),
        ),
        "reference": build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0),
    }
    weights = tmp_path / "run" / "reference" / "checkpoints" / "learner.safetensors"
    models["reference"].load_state_dict(load_file(weights))
    with torch.no_grad():
        losses = {
            role: functional.cross_entropy(model.eval()(image), labels, reduction="none").numpy()
            for role, model in models.items()
        }
    for role, expected in losses.items():
        np.testing.assert_allclose(columns[f"loss/{role}"], expected, atol=1e-5)
    scores = losses["online"] - losses["reference"]
    np.testing.assert_allclose(columns["score"], scores, atol=1e-5)

    # Line 3: Gumbel top-k with the run's own seed, in numpy alone.
    seed = derived_seed(3, "selection")
    bits = np.random.RandomState(seed).randint(0, 2**32, 64, dtype=np.uint64)
    high, low = bits[0::2], bits[1::2]
    uniform = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
    best = np.argsort(-(scores - np.log(-np.log1p(-uniform))))[:16]
    assert np.flatnonzero(columns["chosen"]).tolist() == sorted(best.tolist())


@pytest.mark.parametrize("name", ON_LABELS)
def test_the_ledger_is_what_ran(name, tmp_path):
    config = tiny(name, tmp_path / "run", steps=4, reference_training={"steps": 5})
    summary = training.start(config)
    image = torch.empty(1, 1, 8, 8, device="meta")
    price = {
        role: forward_flops(build_model(size, image_size=8, channels=1, classes=10, seed=0), image)
        for role, size in TINY.items()
    }
    b, B, steps = 16, 32, 4
    learner = 3 * b * steps * price["learner"]
    online = 3 * b * steps * price["online"]
    pretrained = 3 * b * 5 * price["reference"]
    alongside = 3 * 10 * b * steps * price["reference"]
    score = {role: B * steps * price[role] for role in price}
    by_learner = learner + score["learner"]
    ten_passes = learner + 10 * score["learner"]
    held_out = by_learner + score["reference"] + pretrained
    paper, full = {
        "train_loss": (by_learner,) * 2,
        "grad_norm": (by_learner,) * 2,
        "grad_norm_is": (by_learner,) * 2,
        "entropy": (by_learner,) * 2,
        "selective_backprop": (by_learner,) * 2,
        "infobatch": (by_learner,) * 2,
        "conditional_entropy": (ten_passes,) * 2,
        "bald": (ten_passes,) * 2,
        "loss_minus_conditional_entropy": (ten_passes,) * 2,
        "irreducible": (learner + score["reference"] + pretrained,) * 2,
        "boltzmann": (held_out,) * 2,
        "rho_loss_halves": (held_out + pretrained,) * 2,  # two of them
        "learnability_past": (
            learner + score["online"] + score["reference"],
            learner + score["online"] + score["reference"] + online,
        ),
        "uniform": (learner, learner),
        "rs2": (learner, learner),
        "hard": (learner + score["online"], learner + score["online"] + online),
        "easy_reference": (learner + score["reference"] + pretrained,) * 2,
        "rho_loss": (learner + score["learner"] + score["reference"] + pretrained,) * 2,
        "classact": (
            learner + score["online"] + score["reference"] + pretrained,
            learner + score["online"] + score["reference"] + pretrained + online,
        ),
        "classact_ho": (
            learner + score["online"] + score["reference"] + pretrained,
            learner + score["online"] + score["reference"] + pretrained + online,
        ),
        "classact_online": (
            learner + score["online"] + score["reference"] + 3 * b * steps * price["reference"],
            learner + score["online"] + score["reference"] + online + alongside,
        ),
    }[name]
    assert summary["flops"]["paper"] == paper
    assert summary["flops"]["full"] == full
    assert summary["examples_learned"] == b * steps
    assert summary["examples_seen"] == (b if name == "uniform" else B) * steps


def test_what_is_measured_is_recorded_under_its_name(tmp_path):
    training.start(tiny("grad_norm_is", tmp_path / "run", steps=2))
    table = selection(tmp_path / "run")
    assert table.column_names == ["step", "id", "score", "chosen", "grad_norm/learner"]
    # The first super-batch is scored by the model as it was drawn from the seed.
    first = table.slice(0, 32)
    pixels, labels = digits(first["id"].to_numpy())
    seed = derived_seed(3, "weights", "learner")
    model = build_model("mu-1000/4", image_size=8, channels=1, classes=10, seed=seed)
    logits = model(pixels.float() / 127.5 - 1).detach().requires_grad_()
    functional.cross_entropy(logits, labels, reduction="sum").backward()
    norms = logits.grad.norm(dim=1).numpy()
    assert first["grad_norm/learner"].to_numpy() == pytest.approx(norms, rel=1e-4)
    assert first["score"].to_numpy() == pytest.approx(np.log(norms), abs=1e-4)


@pytest.mark.parametrize("name", ["rho_loss", "classact_ho"])
def test_a_held_out_reference_never_sees_the_learners_data(name, tmp_path):
    out = tmp_path / "run"
    config = tiny(name, out, steps=60, record={"selection": "all"})
    training.start(config)
    reference = json.loads((out / "reference" / "config.json").read_text())
    assert reference["data"]["part"] == "holdout"
    learned = set(selection(out)["id"].to_pylist())
    run = training.Run(
        config.changed(
            data={"part": "holdout"},
            reference_training={"data": "pool"},
            recipe="uniform",
            select={"criterion": "uniform"},
        ),
        training.problem_of(config.changed(data={"part": "holdout"})),
        training.RunFolder(tmp_path / "unused"),
        Surroundings(),
    )
    held_out = {
        int(i) for batch, _ in zip(run.stream, range(40), strict=False) for i in batch["id"]
    }
    assert len(held_out) > 600
    assert not held_out & learned
