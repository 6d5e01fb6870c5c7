"""Ranks that Ray Train starts, against the same run on two gloo ranks as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranked import DiesOnce, spawn
from superbatch import group, training
from superbatch.chosen import read_chosen
from superbatch.cli import main
from superbatch.recipes import recipe
from superbatch.run import RunFolder


pytestmark = [
    pytest.mark.slow,  # processes that wait for each other
    pytest.mark.filterwarnings("ignore:`use_"),  # Ray Data says so of settings of its own
]
ray = pytest.importorskip("ray")
pytest.importorskip("pandas")

STEPS = 30
SETTINGS = {
    "steps": STEPS,
    "device": "cpu",
    "models": {"learner": "mu-1000/4", "online": "mu-2400/4"},
    "select": {"super_batch_size": 32, "sub_batch_size": 16},
    "record": {"log_every": 1, "evaluate_every": STEPS, "checkpoint_every": 2},
}
FLAGS = [
    f"--{section}.{name}".replace("_", "-") + f"={value}"
    for section, values in SETTINGS.items()
    if isinstance(values, dict)
    for name, value in values.items()
] + [f"--steps={STEPS}"]
TWO = ["--ranks.launcher=ray", "--ranks.count=2"]


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this module; the mark that is in the environment of its processes."""
    mark = f"SUPERBATCH_TEST={uuid.uuid4()}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(*mark.split("="))
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patched.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patched.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one actor less
        patched.setenv("RAY_worker_niceness", "0")  # else behind all others on a busy host
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield mark.encode()
        ray.shutdown()


@pytest.fixture(scope="module")
def under_torchrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    spawn(train_here, 2, folder)
    return folder / "run"


def train_here(rank, folder):
    training.start(recipe("hard").changed(out=str(folder / "run"), **SETTINGS))


def ranks_of(mark):
    """The processes that are ranks of the cluster with ``mark``."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = path.joinpath("cmdline").read_bytes()
            if b"RayTrainWorker" in name and mark in path.joinpath("environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)


@pytest.fixture
def a_rank_dies(monkeypatch, tmp_path):
    """The second rank of the next run kills itself once, at step 5, after the first checkpoints."""
    real = group.on_ray

    def on_ray(work, config, around):
        return real(DiesOnce(work, tmp_path / "has died", step=5), config, around)

    monkeypatch.setattr(group, "on_ray", on_ray)
    yield
    assert (tmp_path / "has died").exists()


def learned(run):
    record = read_chosen(RunFolder(run))
    return record.steps.tolist(), record.ids.tolist(), record.draws.tolist()


def test_a_rank_that_is_killed_changes_nothing_where_it_may_be_started_again(
    cluster, under_torchrun, a_rank_dies, tmp_path, capsys
):
    run = tmp_path / "run"
    words = ["train", "hard", "--out", str(run), "--json", "--ranks.restarts=1", *FLAGS, *TWO]
    assert main(words) == 0, capsys.readouterr().err
    summary = json.loads(capsys.readouterr().out)
    expected = json.loads((under_torchrun / "summary.json").read_text())
    same = ("steps", "flops", "val", "examples_seen", "examples_learned")
    assert {name: summary[name] for name in same} == {name: expected[name] for name in same}
    assert learned(run) == learned(under_torchrun)
    weights, whole = (
        load_file(each / "checkpoints/learner.safetensors") for each in (run, under_torchrun)
    )
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert json.loads((run / "environment.json").read_text())["ranks"] == 2


def test_a_rank_that_is_killed_ends_all_with_one_sentence_and_the_run_goes_on_alone(
    cluster, under_torchrun, a_rank_dies, tmp_path, capsys
):
    run = tmp_path / "run"
    beside = ["--actors.kind=ray", "--actors.max-staleness=0"]
    assert main(["train", "hard", "--out", str(run), *FLAGS, *TWO, *beside]) == 1
    said = capsys.readouterr().err
    assert said.count("superbatch: ") == 1
    # Ray sees that it is gone, or the other rank does before.
    assert "a rank was lost (rank " in said or "another rank has ended; Ray's logs say" in said
    assert "continue with superbatch train --resume" in said
    assert "Traceback" not in said
    words = ["train", "--resume", str(run), "--ranks.launcher=torchrun", "--json"]
    assert main(words) == 0
    assert learned(run) == learned(under_torchrun)


def test_ctrl_c_stops_all_ranks_with_a_checkpoint_and_leaves_nobody(cluster, tmp_path):
    run = tmp_path / "run"
    address = ray.get_runtime_context().gcs_address
    words = ["train", "hard", "--out", str(run), *FLAGS, *TWO, f"--ray.address={address}"]
    started = subprocess.Popen(
        [sys.executable, "-m", "superbatch", *words, "--steps=100000"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 200
        while not list(run.glob("checkpoints/step-*.pt")) and time.monotonic() < until:
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 1
    assert "superbatch: stopped at step" in said
    assert f"continue with superbatch train --resume {run}" in said
    reached = int(said.split("stopped at step ")[1].split()[0])
    assert (run / f"checkpoints/step-{reached:08d}.pt").is_file()
    until = time.monotonic() + 30
    while ranks_of(cluster) and time.monotonic() < until:
        time.sleep(0.1)
    assert ranks_of(cluster) == []


def test_no_room_is_a_sentence(cluster, tmp_path, capsys, monkeypatch):
    words = ["train", "hard", "--out", str(tmp_path / "run"), *FLAGS, *TWO]
    assert main([*words, "--ranks.cpus=2.5"]) == 2
    said = capsys.readouterr().err
    assert "2 ranks (--ranks.count) take up 5 CPUs and the Ray cluster has 4" in said
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    other = ray.remote(num_cpus=3)(threading.Event).remote()
    ray.get(other.is_set.remote())
    assert main(words) == 2
    assert "ranks found no room on the Ray cluster, which others use" in capsys.readouterr().err
    ray.kill(other)
    assert not (tmp_path / "run").exists()
