"""A run that is killed at any instant and resumed is the run that was never interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from superbatch import training
from superbatch.errors import Stopped
from superbatch.recipes import recipe
from superbatch.surroundings import Surroundings


def config(name, out, **sections):
    base = recipe(name).changed(
        steps=30,
        seed=1,
        out=str(out),
        models={"learner": "mu-1000/4", "online": "mu-2400/4", "reference": "mu-2400/4"},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        data={"flip": True, "crop_padding": 1, "label_noise": 0.2},
        reference_training={"steps": 2},  # stops are to fall into the run itself
        record={"log_every": 1, "evaluate_every": 10, "checkpoint_every": 4},
    )
    return base.changed(**sections)


REPLAY = {"bank_examples": 110, "bank_minimum": 64, "samples_per_insert": 0.8, "max_staleness": 2}


def without_time(row):
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def outcome(folder):
    """Everything a run leaves that is not a time or a path."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = sorted((folder / "selection").glob("*.parquet"))
    chosen = pa.concat_tables([pq.read_table(part) for part in parts])
    weights = {
        path.name: {n: v.tolist() for n, v in load_file(path).items()}
        for path in sorted((folder / "checkpoints").glob("*.safetensors"))
    }
    summary = without_time(json.loads((folder / "summary.json").read_text()))
    for name in ("checkpoint", "reference"):
        summary.pop(name)
    return [without_time(row) for row in metrics], chosen.to_pydict(), weights, summary


def stop_after(count):
    """A stop that is asked for after ``count`` steps."""
    asked = iter(range(10**6))
    return Surroundings(stop=lambda: next(asked) + 1 >= count)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("classact", {}),
        ("classact", {"select": {"bank_super_batches": 3, "temperature": 0.5}}),
        ("classact", {"select": REPLAY | {"when_stale": "rescore", "keep_examples": False}}),
        ("classact", {"select": REPLAY | {"bank_removal": "lowest", "max_times_sampled": 2}}),
        ("classact_online", {"reference_training": {"batch_multiple": 2}}),
        ("rho_loss", {"score_view": "plain", "optimise": {"ema_decay": 0.9}}),
        ("uniform", {}),
        ("rho_loss_halves", {}),
        ("learnability_past", {"reference_training": {"past_decay": 0.8}}),
        ("bald", {}),
        ("grad_norm_is", {}),
    ],
)
def test_stopped_and_resumed_is_identical(name, sections, tmp_path):
    training.start(config(name, tmp_path / "through", **sections))
    interrupted = config(name, tmp_path / "interrupted", **sections)
    with pytest.raises(Stopped, match="continue with superbatch train --resume"):
        training.start(interrupted, stop_after(7))
    assert list((tmp_path / "interrupted" / "checkpoints").glob("step-*.pt"))
    for count in (1, 9):
        with pytest.raises(Stopped):
            training.resume(tmp_path / "interrupted", stop_after(count))
    training.resume(tmp_path / "interrupted")
    assert outcome(tmp_path / "interrupted") == outcome(tmp_path / "through")


def test_a_run_goes_on_where_it_was_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped):  # its reference is trained by then
        training.start(config("classact", "begun/run"), stop_after(12))
    (tmp_path / "begun").rename("moved")
    monkeypatch.chdir("moved")
    training.resume(tmp_path / "moved" / "run")
    training.start(config("classact", tmp_path / "through"))
    assert outcome(tmp_path / "moved" / "run") == outcome(tmp_path / "through")


MORTAL = """
import signal, sys, time
from pathlib import Path
from superbatch import training
from superbatch.config import Config
from superbatch.surroundings import Surroundings

path, steps, later = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
seen = [time.monotonic()]

def watch(status):
    seen.append(time.monotonic())
    if len(seen) == steps + 1:  # somewhere in the next step: the signal's default is to end at once
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + later * (seen[-1] - seen[-2]))

config = Config.model_validate_json(Path(path).read_text())
training.start_or_resume(config, Surroundings(watch=watch))
"""


def mortal(settings, *, steps, later):
    """How the process of a run ends that ends itself ``steps`` steps on, and ``later`` of a step;
    0 steps: that does not.
    """
    # Two cores would split sums by what else runs on them; one gives the same bits every time.
    return subprocess.run(
        [sys.executable, "-c", MORTAL, str(settings), str(steps), str(later)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ).returncode


@pytest.mark.slow
@pytest.mark.timeout(600)  # eight programs start, slowly on a machine that is busy
def test_killed_at_random_instants_and_resumed_is_identical(tmp_path):
    def settings(name):
        path = tmp_path / f"{name}.json"
        steps = {"steps": 80, "reference_training": {"steps": 12}}
        path.write_text(config("classact", tmp_path / name, **steps).model_dump_json())
        return path

    assert mortal(settings("through"), steps=0, later=0) == 0
    chance = random.Random(0)
    for _ in range(6):
        ended = mortal(settings("killed"), steps=chance.randint(2, 9), later=chance.random())
        assert ended == -signal.SIGALRM
    assert mortal(settings("killed"), steps=0, later=0) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "through")


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(which, tmp_path):
    out = tmp_path / "run"
    settings = tmp_path / "settings.json"
    settings.write_text(
        config("uniform", out, steps=100_000, record={"checkpoint_every": 10**6}).model_dump_json()
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "superbatch", "train", "--config", str(settings)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while lines(out / "metrics.jsonl") < 3:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(which)
        said = child.communicate(timeout=120)[1]
    finally:
        child.kill()
    assert child.returncode == 1
    assert "continue with superbatch train --resume" in said
    assert "Traceback" not in said
    assert len(list((out / "checkpoints").glob("step-*.pt"))) == 1
