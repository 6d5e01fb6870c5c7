"""What every kind of actors elsewhere must do. Another kind is one more line in ``KINDS``."""

import gc
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scripted import SIZE, Folder, fill, learner_of, setup_of

from superbatch.actors.actor import scoring, weights_of
from superbatch.actors.process import Processes
from superbatch.actors.remote import RemoteActors
from superbatch.actors.weights import WeightBoard
from superbatch.errors import DataError, RunError


OPEN_FILES = Path("/proc/self/fd")


def by_processes(setup, online):
    board = WeightBoard(0, weights_of({"online": online}))
    return Processes(partial(scoring, setup, board)), board.publish


def by_ray(setup, online):
    cluster = pytest.importorskip("superbatch.actors.ray")
    demands = cluster.Demands(cpus=0.5, gpus=0.25, resource="head")
    actors = cluster.Cluster(setup, 0, weights_of({"online": online}), demands=demands)
    return actors, actors.publish


KINDS = {"process": by_processes, "ray": by_ray}
"""How each kind starts actors that ``setup`` makes, with the weights of ``online`` after step 0."""

KILLS = {by_processes: 20, by_ray: 3}
"""How often actors are killed in one run: Ray takes seconds to start another."""


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    if request.param == "ray":
        request.getfixturevalue("ray_hosts")
    return KINDS[request.param]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class Run:
    """A loop that learns nothing: after step ``n`` every weight is ``n``."""

    def __init__(self, kind, folder, *, steps=12, pause=0.0, **settings):
        self.online = learner_of(0)
        self.transport, publish = kind(setup_of(folder.path, pause=pause), self.online)
        self.steps = steps
        self.accounted = []
        usual = {"count": 1, "max_staleness": 0, "timeout": 60.0, "step": 0}
        self.actors = RemoteActors(
            self.transport,
            lambda step, trained: publish(step, weights_of(trained)),
            numbers=range(1, steps + 1),
            ids_of=lambda number: np.arange(SIZE) + SIZE * number,
            arrived=self.accounted.append,
            **(usual | settings),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.actors.close()

    def turns(self, pause=0.0):
        """Each super-batch, before the update that it is for."""
        for step, scored in enumerate(self.actors, start=1):
            yield step, scored
            time.sleep(pause)
            fill(self.online, step)
            self.actors.publish(step, {"online": self.online})

    def all(self):
        return [scored for _, scored in self.turns()]


def ids(scored):
    return [one.examples["id"].tolist() for one in scored]


def expected(steps):
    return [[SIZE * n + place for place in range(SIZE)] for n in range(1, steps + 1)]


def test_super_batches_come_whole_in_order_and_once(kind, folder):
    with Run(kind, folder, count=2, max_staleness=4) as run:
        scored = run.all()
    assert ids(scored) == expected(12)
    assert all(set(one.examples) == {"id", "draw"} for one in scored)  # and no pixels
    assert all(torch.equal(one.scores, one.examples["id"].float()) for one in scored)
    assert [found.number for found in run.accounted] == list(range(1, 13))
    assert [found.skipped for found in run.accounted] == [{n} for n in range(1, 13)]
    assert sorted(number for number, _ in folder.begun()) == list(range(1, 13))


def test_in_step_each_is_scored_with_the_weights_of_the_last_update(kind, folder):
    with Run(kind, folder, count=2, max_staleness=0) as run:
        scored = run.all()
    assert [one.weights_step for one in scored] == list(range(12))
    assert [one.losses["online"].tolist() for one in scored] == [
        [step] * SIZE for step in range(12)
    ]


@pytest.mark.parametrize("staleness", [1, 3])
def test_weights_are_whole_never_older_than_allowed_and_never_go_back(kind, folder, staleness):
    with Run(kind, folder, steps=60, count=2, max_staleness=staleness) as run:
        for step, scored in run.turns(pause=0.002):
            assert 0 <= step - 1 - scored.weights_step <= staleness
            assert scored.losses["online"].tolist() == [scored.weights_step] * SIZE


def test_what_is_ready_is_known_before_it_is_asked_for(kind, folder):
    with Run(kind, folder, steps=3, max_staleness=0) as run:
        turns = iter(run.actors)
        next(turns)
        assert not run.actors.ready()  # the second may not begin before the weights after step 1
        fill(run.online, 1)
        run.actors.publish(1, {"online": run.online})
        deadline = time.monotonic() + 60
        while not run.actors.ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run.actors.ready()
        assert next(turns).weights_step == 1
        assert not run.actors.ready()


def test_actors_do_not_run_ahead_of_a_learner_that_is_slow(kind, folder):
    with Run(kind, folder, steps=100, count=2, max_staleness=50) as run:
        turns = run.turns()
        next(turns)
        deadline = time.monotonic() + 30
        while len(folder.begun()) < 6 and time.monotonic() < deadline:
            run.actors.publish(0, {"online": run.online})  # hears and gives out, but takes nothing
        time.sleep(0.3)
        run.actors.publish(0, {"online": run.online})
        time.sleep(0.3)
        assert sorted(number for number, _ in folder.begun()) == [1, 2, 3, 4, 5, 6]


def test_actors_that_kill_themselves_are_replaced_and_nothing_is_lost(kind, folder):
    for number in (1, 5, 6, 11):
        folder.tell("die", number)
    with Run(kind, folder, count=2, max_staleness=3) as run:
        scored = run.all()
    assert ids(scored) == expected(12)
    assert [found.number for found in run.accounted] == list(range(1, 13))
    begun = [number for number, _ in folder.begun()]
    assert all(begun.count(number) >= 2 for number in (1, 5, 6, 11))
    assert run.actors.metrics()["actors/lost"] == 4


def test_actors_that_are_killed_are_replaced_and_nothing_is_lost(kind, folder):
    times, steps, scored, killed = KILLS[kind], 5 * KILLS[kind] + 10, [], []
    with Run(kind, folder, steps=steps, pause=0.02, count=2, max_staleness=3) as run:
        for step, one in run.turns():
            scored.append(one)
            # Five turns apart, so that others have begun something since.
            if step % 5 == 0 and len(killed) < times:
                time.sleep(0.004 * (len(killed) % 7))  # at different moments of their work
                killed.append(folder.begun()[-1][1])
                os.kill(killed[-1], signal.SIGKILL)
    assert len(set(killed)) == times
    assert run.actors.metrics()["actors/lost"] == times
    assert ids(scored) == expected(steps)
    assert [found.number for found in run.accounted] == list(range(1, steps + 1))


def test_an_actor_that_hangs_is_replaced(kind, folder):
    folder.tell("hang", 3)
    with Run(kind, folder, timeout=4.0, max_staleness=1) as run:
        scored = run.all()
    assert ids(scored) == expected(12)
    assert [number for number, _ in folder.begun()].count(3) >= 2
    # On a busy machine another may be given up as well, which test_remote's clock would tell.
    assert run.actors.metrics()["actors/lost"] >= 1


def test_an_actor_that_is_stopped_is_replaced(kind, folder):
    with Run(kind, folder, timeout=4.0, max_staleness=1) as run:
        turns = run.turns()
        scored = [next(turns)[1]]
        os.kill(folder.begun()[-1][1], signal.SIGSTOP)
        scored += [one for _, one in turns]
    assert ids(scored) == expected(12)
    assert run.actors.metrics()["actors/lost"] >= 1


def test_an_error_ends_the_run_with_its_traceback_once_and_the_ids(kind, folder, capfd):
    folder.tell("crash", 5)
    with (
        Run(kind, folder, max_staleness=2) as run,
        pytest.raises(RunError) as failure,
    ):
        run.all()
    message = str(failure.value)
    assert "while it scored super-batch 5 (ids 20, 21, 22, 23)" in message
    assert message.count("Traceback") == 1
    assert 'raise ValueError("a bad number")' in message
    assert "Traceback" not in capfd.readouterr().err  # the actor itself says nothing


def test_what_the_library_refuses_comes_without_a_traceback(kind, folder):
    folder.tell("refuse", 2)
    with (
        Run(kind, folder) as run,
        pytest.raises(DataError, match=r"^an image is no image$"),
    ):
        run.all()


def test_an_error_before_the_first_super_batch_ends_the_run(kind, folder):
    folder.tell("crash", "setup")
    with (
        Run(kind, folder) as run,
        pytest.raises(RunError, match=r"(?s)while it opened the data.*no data today"),
    ):
        run.all()


def test_what_always_kills_ends_the_run_with_the_ids(kind, folder):
    folder.tell("die", 4, always=True)
    with (
        Run(kind, folder) as run,
        pytest.raises(RunError, match=r"super-batch 4 \(ids 16, 17, 18, 19\)"),
    ):
        run.all()
    assert [number for number, _ in folder.begun()] == [1, 2, 3] + 5 * [4]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="open files are counted on Linux")
def test_closing_ends_every_actor_also_one_that_hangs(kind, folder):
    folder.tell("hang", 3)
    run = Run(kind, folder, count=2, max_staleness=3)
    gc.collect()  # what the tests before have left would be closed at any moment
    open_files = len(list(OPEN_FILES.iterdir()))
    turns = run.turns()
    next(turns)
    deadline = time.monotonic() + 30
    while not any(number == 3 for number, _ in folder.begun()) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.actors.close()
    run.actors.close()
    pids = {pid for _, pid in folder.begun()}
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, pids))
    assert len(list(OPEN_FILES.iterdir())) == open_files
    assert not list(Path("/dev/shm").glob(f"*{os.getpid()}*"))
