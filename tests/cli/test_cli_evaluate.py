"""``superbatch evaluate`` against counting by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from superbatch.cli import main
from superbatch.models.build import build_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned some digits and not others."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--steps=12", "--models.learner=mu-2400/4", "--optimise.learning-rate=0.003"]
    assert main(["train", "uniform", *flags, "--out", str(out)]) == 0
    return out


def answers(run):
    """The classes of each digit, best first, by the run's weights; and the true ones."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    model.load_state_dict(load_file(run / "checkpoints" / "learner.safetensors"))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images).float() / 127.5 - 1).numpy()
    return np.argsort(-logits, axis=1, kind="stable"), labels, images


def evaluated(capsys, *words):
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_shares_are_those_counted_by_hand(run, capsys):
    order, labels, _ = answers(run)
    right = order[:, 0] == labels
    per_class = [right[labels == name].mean() for name in range(10)]
    assert len(set(per_class)) > 3  # else it could be right by chance
    found = evaluated(capsys, run, "--record.evaluate-batch=100")
    assert found["examples"] == 1797
    assert found["top1"] == pytest.approx(right.mean())
    assert found["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())
    assert found["per_class"] == pytest.approx(per_class)
    assert found["worst_class"] == pytest.approx(min(per_class))


def test_a_class_without_examples_has_no_share(run, capsys, tmp_path):
    order, labels, images = answers(run)
    few = np.flatnonzero(labels != 3)[:200]
    np.savez(tmp_path / "few.npz", images=images[few], labels=labels[few])
    where = ["--data.path=digits", "--data.eval-path", tmp_path / "few.npz"]
    weights = run / "checkpoints" / "learner.safetensors"
    found = evaluated(capsys, weights, *where)
    right = (order[:, 0] == labels)[few]
    assert found["examples"] == 200
    assert found["top1"] == pytest.approx(right.mean())
    assert found["per_class"][3] is None
    shares = [right[labels[few] == name].mean() for name in range(10) if name != 3]
    assert found["worst_class"] == pytest.approx(min(shares))


def test_a_person_sees_the_worst_class_first(run, capsys):
    found = evaluated(capsys, run)
    assert main(["evaluate", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"top-1 {found['top1']:.4f}" in lines[0]
    assert f"worst class {found['worst_class']:.4f}" in lines[0]
    shares = [float(line.split()[1]) for line in lines[2:]]
    assert shares == sorted(shares)
    assert len(shares) == 10
