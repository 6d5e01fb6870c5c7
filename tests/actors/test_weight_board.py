"""Weights in shared memory: whole, newest, and nobody waits for who is killed."""

import os
import signal
import time

import pytest
import torch
import torch.multiprocessing as processes

from superbatch.actors.weights import WeightBoard


def weights(step, *, size=20_000):
    """Tensors of several types, all of which are ``step``."""
    return {
        "learner": {"w": torch.full((3, size), float(step)), "count": torch.tensor(step)},
        "online": {"half": torch.full((7,), step, dtype=torch.bfloat16), "none": torch.empty(0)},
    }


def values(mine):
    return {float(v) for part in mine.values() for t in part.values() for v in t.unique()}


def test_what_is_published_is_read_with_its_step():
    board = WeightBoard(3, weights(3))
    mine = weights(-1)
    assert board.read(mine) == 3
    assert values(mine) == {3.0}
    for step in range(4, 9):
        board.publish(step, weights(step))
        assert board.read(mine) == step
        assert values(mine) == {float(step)}


def test_what_is_published_is_a_copy():
    given = weights(1)
    board = WeightBoard(1, given)
    given["learner"]["w"].fill_(9.0)
    mine = weights(-1)
    board.read(mine)
    assert values(mine) == {1.0}


def test_weights_that_learn_are_read_into_without_a_gradient():
    parameter = torch.nn.Parameter(torch.zeros(3))
    board = WeightBoard(1, {"online": {"w": torch.full((3,), 4.0, requires_grad=True)}})
    board.read({"online": {"w": parameter}})
    assert parameter.tolist() == [4.0, 4.0, 4.0]


class Interrupted(dict):
    """Weights of one role; who asks for the second tensor has something happen first."""

    def __init__(self, tensors, happens):
        super().__init__(tensors)
        self.happens = happens

    def __getitem__(self, name):
        if name == "b" and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return super().__getitem__(name)


def pair(step):
    return {"a": torch.tensor([step]), "b": torch.tensor([step])}


def test_a_reader_that_is_overtaken_reads_again():
    board = WeightBoard(1, {"online": pair(1)})

    def overtake():
        for step in (2, 3):
            board.publish(step, {"online": pair(step)})

    mine = Interrupted(pair(0), overtake)
    assert board.read({"online": mine}) == 3
    assert dict(mine) == pair(3)


def test_a_reader_meanwhile_reads_what_was_there_before():
    board = WeightBoard(1, {"online": pair(1)})
    mine, seen = pair(0), []

    def look():
        seen.append((board.read({"online": mine}), mine["a"].item(), mine["b"].item()))

    for step in (2, 3, 4):
        board.publish(step, {"online": Interrupted(pair(step), look)})
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_a_reader_that_meets_the_writer_reads_again():
    board = WeightBoard(1, {"online": pair(1)})

    def break_off():
        raise KeyboardInterrupt

    def meet():
        board.publish(2, {"online": pair(2)})
        with pytest.raises(KeyboardInterrupt):  # it stands where the reader reads, half done
            board.publish(3, {"online": Interrupted(pair(3), break_off)})

    mine = Interrupted(pair(0), meet)
    assert board.read({"online": mine}) == 2
    assert dict(mine) == pair(2)


def read_on(board, pipe, enough):
    """Read until told to stop; every reading that was not whole, and the steps' number. ``enough``
    is set when those are more than 20.
    """
    torn, steps, before = [], 0, -1
    mine = weights(-1)
    pipe.send("here")
    while not pipe.poll():
        step = board.read(mine)
        if values(mine) != {float(step)} or step < before:
            torn.append((step, before, sorted(values(mine))))
        steps += step != before
        before = step
        if steps > 20:
            enough.set()
    pipe.send((torn, steps))


def test_nobody_reads_half_an_update():
    context = processes.get_context("forkserver")
    board = WeightBoard(0, weights(0))
    readers, enough = [], context.Event()
    for _ in range(3):
        ours, theirs = context.Pipe()
        reader = context.Process(target=read_on, args=(board, theirs, enough), daemon=True)
        reader.start()
        readers.append((reader, ours))
    for _, pipe in readers:
        pipe.recv()
    for step in range(1, 257):  # what bfloat16 can tell apart
        # In turns: as fast as can be, so that readers are overtaken, and with a moment between.
        published = weights(step)
        for _ in range(20):
            board.publish(step, published)
        time.sleep(0.002 * (step % 3))
        if step >= 100 and enough.wait(0.2):  # longer where the machine is busy
            break
    seen = []
    for process, pipe in readers:
        pipe.send("stop")
        seen.append(pipe.recv())
        process.join()
    assert [torn for torn, _ in seen] == [[], [], []]
    assert enough.is_set(), "the readers have hardly read"


def stop_reading(board, pipe):
    mine = weights(-1)
    pipe.send("here")
    while True:
        board.read(mine)


@pytest.mark.parametrize("which", [signal.SIGSTOP, signal.SIGKILL])
def test_a_reader_that_is_stopped_or_killed_holds_nobody_up(which):
    context = processes.get_context("forkserver")
    board = WeightBoard(0, weights(0))
    ours, theirs = context.Pipe()
    reader = context.Process(target=stop_reading, args=(board, theirs), daemon=True)
    reader.start()
    ours.recv()
    time.sleep(0.02)
    os.kill(reader.pid, which)
    mine = weights(-1)
    for step in range(1, 50):
        board.publish(step, weights(step))
        assert board.read(mine) == step
    reader.kill()
    reader.join()
