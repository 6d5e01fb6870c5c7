"""What whoever watches is told while data is read."""

import io
import multiprocessing
import os
import signal

from refusals import parquet
from rich.console import Console

from superbatch import training
from superbatch.cli.progress import Bars, stop_signals
from superbatch.recipes import recipe
from superbatch.surroundings import Status, Surroundings


def test_whoever_watches_sees_images_being_read(tmp_path):
    path = parquet(tmp_path / "a.parquet")
    config = recipe("uniform").changed(
        steps=1, out=str(tmp_path / "run"), data={"path": path}, models={"learner": "mu-2400/4"}
    )
    seen = []
    training.start(config, Surroundings(watch=seen.append))
    first = seen[0]
    assert (first.title, first.step, first.steps, first.unit) == ("reading", 200, 200, "examples")
    assert (seen[-1].title, seen[-1].unit) == ("uniform", "steps")


def test_reading_is_said_where_it_takes_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("superbatch.cli.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    bars = Bars(Console(file=out))
    bars.watch(Status("reading", 10, 100, {}, "examples"))
    now[0] = 109.0
    bars.watch(Status("reading", 40, 100, {}, "examples"))
    assert out.getvalue() == ""
    now[0] = 112.0  # 12 seconds after the first: 60 images more
    bars.watch(Status("reading", 70, 100, {}, "examples"))
    assert out.getvalue() == "reading  70/100  5.0 examples/s  6 s left\n"


def test_a_second_set_of_fewer_examples_has_a_rate_of_its_own(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("superbatch.cli.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    bars = Bars(Console(file=out))
    for at, step, steps in [(100, 100, 400), (130, 400, 400), (140, 20, 50), (155, 50, 50)]:
        now[0] = at
        bars.watch(Status("reading", step, steps, {}, "examples"))
    first, second = out.getvalue().splitlines()
    assert first == "reading  400/400  10.0 examples/s  0 s left"
    assert second == "reading  50/50  2.0 examples/s  0 s left"  # 30 in 15 seconds


def waits(pipe):
    pipe.send("begun")
    pipe.recv()


def test_ctrl_c_is_answered_by_one_process_whoever_hears_it(capfd):
    fork = multiprocessing.get_context("fork")  # as the loader's workers are
    ours, theirs = fork.Pipe()
    with stop_signals() as stop:
        child = fork.Process(target=waits, args=(theirs,), daemon=True)
        child.start()
        assert ours.recv() == "begun"
        os.kill(child.pid, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        ours.send("end")
        child.join(60)
    assert child.exitcode == 0  # who started it decides when it ends
    assert capfd.readouterr().err == "stopping after this step, with a checkpoint ...\n"
