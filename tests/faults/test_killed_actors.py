"""Actors and learners killed for real: the run ends with the updates and the ledger that it had."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

from superbatch import training
from superbatch.chosen import read_chosen
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked up in Linux's /proc"
)
TINY = "mu-2400/4"


def config(out, name="classact", **sections):
    base = recipe(name).changed(
        steps=150,
        seed=3,
        out=str(out),
        device="cpu",
        models={"learner": TINY, "online": TINY, "reference": TINY},
        reference_training={"steps": 4, "batch_multiple": 2},
        select={"super_batch_size": 32, "sub_batch_size": 16, "bank_super_batches": 2},
        record={"log_every": 1, "evaluate_every": 150, "checkpoint_every": 10},
        actors={"kind": "process", "count": 2, "max_staleness": 3},
    )
    return base.changed(**sections)


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """What the run of a recipe spends and sees where nothing happens to it."""
    inline = {"kind": "inline"}

    @cache
    def spends(name):
        out = tmp_path_factory.mktemp("through") / "run"
        return spent(training.start(config(out, name, actors=inline)))

    return spends


def spent(summary):
    names = ("steps", "examples_seen", "examples_learned", "flops")
    return {name: summary[name] for name in names}


def complete(out):
    """Every step learned from as many examples as it should have."""
    steps = read_chosen(RunFolder.open(out)).steps.tolist()
    assert steps == [number for number in range(1, 151) for _ in range(16)]


def children():
    """The processes there are, by who started them."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = place.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if words[0] != "Z":
            found.setdefault(int(words[1]), []).append(int(place.parent.name))
    return found


def descendants(pid):
    by_starter, found, new = children(), [], [pid]
    while new:
        new = [child for one in new for child in by_starter.get(one, [])]
        found += new
    return found


@pytest.mark.parametrize(
    "name", ["classact", pytest.param("classact_online", marks=pytest.mark.slow)]
)
def test_actors_killed_twenty_times_change_no_count(tmp_path, through, name):
    killed = []

    def kill(status):
        """Between two steps of the learner, to which all others are at whatever moment."""
        if len(killed) == 20 or status.title != name or status.step < 3 + 5 * len(killed):
            return
        server = forkserver._forkserver._forkserver_pid
        victims = [pid for pid in children().get(server, []) if pid not in killed]
        if victims:
            killed.append(victims[len(killed) % len(victims)])
            os.kill(killed[-1], signal.SIGKILL)

    summary = training.start(config(tmp_path / "run", name), Surroundings(watch=kill))
    assert len(killed) == 20
    assert 10 <= summary["actors"]["actors/lost"] <= 20  # one may be killed with nothing to do
    assert spent(summary) == through(name)
    complete(tmp_path / "run")


def program(*arguments):
    """``superbatch train`` as a process, and a group, of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "superbatch", "train", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(out, count, run):
    path = out / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)


def assert_gone(pids):
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, [
            Path(f"/proc/{pid}/status").read_text() for pid in left
        ]
        time.sleep(0.02)
    for pid in pids:
        assert not list(Path("/dev/shm").glob(f"*_{pid}_*"))


@pytest.mark.slow
@pytest.mark.timeout(600)  # programs start slowly on a machine that is busy
def test_a_learner_that_is_killed_or_interrupted_leaves_nobody_behind(tmp_path, through):
    out = tmp_path / "run"
    settings = tmp_path / "settings.json"
    settings.write_text(config(out, "classact_online").model_dump_json())

    first = program("--config", str(settings))
    wait_for_lines(out, 15, first)
    theirs = descendants(first.pid)
    assert len(theirs) >= 4  # the server of processes, two actors and the reference's
    first.kill()
    first.communicate()
    assert_gone([first.pid, *theirs])

    second = program("--resume", str(out))
    wait_for_lines(out, 40, second)
    theirs = descendants(second.pid)
    assert len(theirs) >= 4
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does: everybody hears it
    said = second.communicate()[1]
    assert second.returncode == 1
    assert "continue with superbatch train --resume" in said
    assert "Traceback" not in said
    assert_gone([second.pid, *theirs])
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["actors/lost"] == 0  # the signal ended no actor

    assert spent(training.resume(out)) == through("classact_online")
    complete(out)
