"""Seconds and FLOPs of whole runs: what is counted where, by hand."""

import json
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from superbatch import build, clock, training
from superbatch.checkpoint import checkpoints, load_checkpoint
from superbatch.errors import Stopped
from superbatch.learner import Learner, Optimisation
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings
from superbatch.tasks import Classification


@pytest.fixture
def ticking(monkeypatch):
    """Each look at the clock is a second after the one before: a phase is as long as its turns."""
    ticks = count()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


@pytest.fixture
def two_classes(tmp_path):
    """60 images of two classes; a fifth of them, 12, are evaluated on."""
    path = tmp_path / "two.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.arange(60) % 2)
    return str(path)


def tiny(name, out, **sections):
    base = recipe(name).changed(
        steps=6,
        out=str(out),
        models={"learner": "mu-2400/4", "online": "mu-2400/4", "reference": "mu-2400/4"},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        reference_training={"steps": 2},
        record={"log_every": 2, "evaluate_every": 3},
    )
    return base.changed(**sections)


def stop_after(times):
    """A stop that is asked for after so many steps, of a reference too."""
    asked = iter(range(1, 1000))
    return Surroundings(stop=lambda: next(asked) >= times)


def test_seconds_go_on_where_a_run_was_stopped(ticking, tmp_path):
    through = training.start(tiny("classact", tmp_path / "through"))["seconds"]
    with pytest.raises(Stopped):
        training.start(tiny("classact", tmp_path / "run"), stop_after(2 + 4))
    before = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])["clock"]
    resumed = training.resume(tmp_path / "run")["seconds"]
    assert all(resumed["by_phase"][phase] >= seconds for phase, seconds in before.items())
    # Only writing the checkpoint that it was stopped with is not in it.
    assert resumed == through
    # Six updates; after the third and the last an evaluation and a look at the agreement.
    assert resumed["by_phase"]["learner"] == resumed["by_phase"]["online"] == 6
    assert resumed["by_phase"]["evaluation"] == 4
    assert resumed["total"] == sum(resumed["by_phase"].values())


def test_a_references_seconds_are_the_runs_but_not_its_evaluation(ticking, tmp_path):
    summary = training.start(tiny("classact", tmp_path / "run"))
    reference = json.loads((tmp_path / "run" / "reference" / "summary.json").read_text())
    seconds = reference["seconds"]
    assert seconds["by_phase"]["evaluation"] == 1
    assert summary["seconds"]["by_phase"]["reference"] == seconds["total"] - 1
    assert seconds["total"] > 2


def test_seconds_of_a_row_leave_evaluation_out(ticking, tmp_path):
    seconds = training.start(tiny("classact", tmp_path / "run"))["seconds"]
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 6]
    # After the last row come two turns of the phase recording: its own end, and the checkpoint.
    assert rows[-1]["seconds"] == seconds["total"] - seconds["by_phase"]["evaluation"] - 2


class Linear(nn.Module):
    """Logits of 64 pixels in two classes: 2 * 64 * 2 = 256 FLOPs."""

    def __init__(self, sign):
        super().__init__()
        weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(sign * weight)

    def forward(self, image):
        return nn.functional.linear(image.flatten(1), self.weight)


@pytest.fixture
def opposed(monkeypatch):
    """The learner and the online model are linear and do not move; says which sign each has."""

    def make(**signs):
        standing = Optimisation(schedule=lambda step: 0.0)

        def learner_of(config, role, problem, device):
            return Learner(Linear(signs[role]), Classification(), standing)

        monkeypatch.setattr(build, "learner_of", learner_of)

    return make


@pytest.mark.parametrize(("sign", "agreement"), [(1.0, 1.0), (2.0, 1.0), (-1.0, -1.0)])
def test_models_agree_as_far_as_they_find_the_same_hard(
    sign, agreement, opposed, two_classes, tmp_path
):
    """Of two classes the loss of -W is lowest where that of W is highest."""
    opposed(learner=1.0, online=sign)
    training.start(tiny("hard", tmp_path / "run", steps=1, data={"path": two_classes}))
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["selection/agreement"] == pytest.approx(agreement)


def test_measuring_is_counted_and_is_in_neither_total(opposed, two_classes, tmp_path):
    opposed(learner=1.0, online=-1.0)
    config = tiny("hard", tmp_path / "run", data={"path": two_classes})
    flops = training.start(config)["flops"]
    # Twice the learner is measured on 12 examples, and both models on a sub-batch of 16.
    assert flops["by_role"]["learner"]["evaluate"] == 256 * 2 * (12 + 16)
    assert flops["by_role"]["online"]["evaluate"] == 256 * 2 * 16
    # Six steps: 32 are scored by the online model, and both learn 16 at three passes each.
    learned = 256 * 6 * 3 * 16
    assert flops["by_role"]["learner"]["learn"] == flops["by_role"]["online"]["learn"] == learned
    assert flops["by_role"]["online"]["score"] == 256 * 6 * 32
    assert flops["full"] == 256 * 6 * 32 + 2 * learned
    assert flops["paper"] == 256 * 6 * 32 + learned


@pytest.mark.parametrize(
    ("steps", "evaluated"),
    [(5, [1, 2, 3, 4, 5]), (39, [*range(1, 40)]), (41, [*range(2, 41, 2), 41])],
)
def test_every_twentieth_of_a_run_is_evaluated_and_its_end(
    steps, evaluated, opposed, two_classes, tmp_path
):
    opposed(learner=1.0)
    config = tiny(
        "uniform",
        tmp_path / "run",
        steps=steps,
        data={"path": two_classes},
        record={"evaluate_every": None, "log_every": 1},
    )
    training.start(config)
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["step"] for row in rows if "val/accuracy" in row] == evaluated
