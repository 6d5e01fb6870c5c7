"""A model that learns alone, elsewhere, against the same in the loop: the same, bit for bit."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from scripted import Folder, points, reference, student

from superbatch.actors.alone import Beside, InTheLoop, from_answer, studying
from superbatch.actors.crew import Crew, Words
from superbatch.actors.process import Processes
from superbatch.actors.weights import Shelf
from superbatch.clock import Clock
from superbatch.courses import from_shelf, nothing_to_publish
from superbatch.errors import DataError, RunError


AHEAD = 2


def by_processes(path, pause, step, state):
    shelf = Shelf(AHEAD + 1, state)
    shelf.write(step, state)
    processes = Processes(partial(studying, partial(student, path, pause, False), shelf))
    return processes, partial(from_shelf, shelf), nothing_to_publish


def by_ray(path, pause, step, state):
    ray = pytest.importorskip("superbatch.actors.ray")
    cluster = ray.Cluster(
        partial(student, path, pause, True), step, state, demands=ray.Demands(cpus=0.5)
    )
    return cluster, from_answer, cluster.publish


KINDS = {"process": by_processes, "ray": by_ray}

KILLS = {by_processes: 8, by_ray: 2}
"""How often it is killed in one run: Ray takes seconds to start another."""


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    if request.param == "ray":
        request.getfixturevalue("ray_hosts")
    return KINDS[request.param]


@pytest.fixture
def process():
    """Where it is the crew, or the student, that is looked at: kinds start it all the same."""
    return by_processes


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class Run:
    """A model whose updates are made elsewhere, from ``learner``'s last one to number ``last``."""

    def __init__(self, kind, folder, *, last=8, pause=0.0, timeout=60.0, learner=None, stream=None):
        self.learner = learner or reference()
        self.stream = stream or points()
        self.first = self.learner.steps + 1
        self.last = last
        state = {"reference": self.learner.numbers()}
        transport, receive, publish = kind(str(folder.path), pause, self.first - 1, state)
        self.crew = Crew(
            transport,
            Words("made update", "less", self.stream.ids_of),
            numbers=range(self.first, last + 1),
            ahead=AHEAD,
            timeout=timeout,
        )
        self.course = Beside(
            self.crew,
            self.learner,
            receive,
            publish,
            self.stream,
            role="reference",
            clock=Clock(),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.course.close()

    def turn(self, number):
        return outcome(self.course(number), self.learner, self.stream)

    def all(self):
        return [self.turn(number) for number in range(self.first, self.last + 1)]


def outcome(loss, learner, stream):
    numbers = {name: value.tolist() for name, value in learner.numbers().items()}
    counted = (learner.steps, learner.examples, learner.recomputes, stream.state_dict())
    return float(loss), numbers, counted


def in_the_loop(last):
    """What every update leaves, made one by one in this process."""
    learner, stream = reference(), points()
    course = InTheLoop(learner, stream, role="reference", seed=11, clock=Clock())
    return [outcome(course(number), learner, stream) for number in range(1, last + 1)]


def numbers_begun(folder):
    return [number for number, _ in folder.begun()]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_update_is_that_of_the_loop(kind, folder):
    with Run(kind, folder) as run:
        assert run.all() == in_the_loop(8)
    assert numbers_begun(folder) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {pid for _, pid in folder.begun()} != {os.getpid()}
    broken = [one for number in range(1, 9) for one in points().ids_of(number) if one % 10 == 7]
    assert run.stream.state_dict()["skipped"] == sorted(broken) != []


def test_random_numbers_of_others_change_nothing_and_are_not_changed():
    losses = []
    for seed, others in ((11, 1), (11, 2), (12, 1)):
        course = InTheLoop(reference(), points(), role="reference", seed=seed, clock=Clock())
        torch.manual_seed(others)
        losses.append(float(course(1)))
        theirs = torch.rand(1, generator=torch.Generator().manual_seed(others))
        assert torch.equal(torch.rand(1), theirs)
    assert losses[0] == losses[1] != losses[2]


def test_it_is_never_further_ahead_than_allowed(process, folder):
    with Run(process, folder) as run:
        run.turn(1)
        wait_for(lambda: len(folder.begun()) == 3)
        time.sleep(0.3)
        run.crew.hear()
        time.sleep(0.3)
        assert numbers_begun(folder) == [1, 2, 3]
        run.turn(2)
        wait_for(lambda: len(folder.begun()) == 4)


def test_one_that_kills_itself_is_replaced_and_the_updates_are_the_same(process, folder):
    for number in (1, 4, 5):
        folder.tell("die", number)
    with Run(process, folder) as run:
        assert run.all() == in_the_loop(8)
        assert run.course.lost == 3


def test_one_that_is_killed_is_replaced_and_the_updates_are_the_same(kind, folder):
    times, taken, killed = KILLS[kind], [], []
    with Run(kind, folder, last=40, pause=0.01) as run:
        for number in range(1, 41):
            taken.append(run.turn(number))
            # More turns apart than it may be ahead, so that the next has begun something since.
            if number % (AHEAD + 2) == 0 and len(killed) < times:
                time.sleep(0.003 * (len(killed) % 7))  # at different moments of an update
                killed.append(folder.begun()[-1][1])
                os.kill(killed[-1], signal.SIGKILL)
        assert len(set(killed)) == times
        assert run.course.lost == times
    assert taken == in_the_loop(40)


def test_one_that_hangs_is_replaced(process, folder):
    folder.tell("hang", 3)
    with Run(process, folder, timeout=4.0, last=4) as run:
        assert run.all() == in_the_loop(4)
        assert run.course.lost == 1


def test_an_error_ends_the_run_with_its_traceback_and_the_ids(process, folder):
    folder.tell("crash", 2)
    ids = ", ".join(map(str, points().ids_of(2).tolist()))
    with (
        Run(process, folder) as run,
        pytest.raises(RunError, match=r"(?s)while it made update 2 \(ids " + ids) as failure,
    ):
        run.all()
    assert str(failure.value).count('raise ValueError("a bad number")') == 1


def test_what_the_library_refuses_comes_without_a_traceback(process, folder):
    folder.tell("refuse", 2)
    with Run(process, folder) as run, pytest.raises(DataError, match=r"^an image is no image$"):
        run.all()


def test_interrupted_and_resumed_is_identical(kind, folder):
    with Run(kind, folder) as run:
        first = [run.turn(number) for number in (1, 2, 3)]
        wait_for(lambda: len(folder.begun()) == 5)  # it is ahead
        state, place = run.learner.state_dict(), run.stream.state_dict()
    learner, stream = reference(), points()
    learner.load_state_dict(state)
    stream.load_state_dict(place)
    with Run(kind, folder, learner=learner, stream=stream) as run:
        assert first + run.all() == in_the_loop(8)


def test_closing_ends_it_also_when_it_hangs(process, folder):
    folder.tell("hang", 2)
    with Run(process, folder) as run:
        run.turn(1)
        wait_for(lambda: numbers_begun(folder)[-1] == 2)
    pid = folder.begun()[-1][1]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_student_makes_again_what_came_after_the_state_it_was_given(tmp_path):
    expected = in_the_loop(4)
    behind = student(str(tmp_path), 0.0, True)
    studied = behind.answer(0, 4, 0)
    assert (studied.number, studied.loss) == (4, expected[3][0])
    state = {name: value.tolist() for name, value in studied.state["reference"].items()}
    assert state == expected[3][1]
    assert numbers_begun(Folder(tmp_path)) == [1, 2, 3, 4]


def test_a_shelf_keeps_as_many_states_as_it_has_places():
    def state(number):
        return {"reference": {"w": torch.full((5,), float(number)), "n": torch.tensor(number)}}

    shelf, mine = Shelf(3, state(0)), state(-1)
    for number in range(4, 7):
        shelf.write(number, state(number))
    for number in (5, 4, 6):
        shelf.read(number, mine)
        assert mine["reference"]["w"].tolist() == [number] * 5
        assert int(mine["reference"]["n"]) == number
    shelf.write(7, state(7))
    shelf.read(5, mine)
    assert int(mine["reference"]["n"]) == 5
