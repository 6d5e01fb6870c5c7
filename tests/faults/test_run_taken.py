"""A run folder that another process, or this one, is training in."""

import multiprocessing

import pytest

from ranked import spawn
from superbatch import files, training
from superbatch.errors import RunError, Stopped
from superbatch.files import Lock
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings


def config(out, **sections):
    base = recipe("uniform").changed(
        steps=6,
        out=str(out),
        device="cpu",
        models={"learner": "mu-2400/4"},
        select={"super_batch_size": 16, "sub_batch_size": 16},
        record={"log_every": 1, "checkpoint_every": 2},
    )
    return base.changed(**sections)


def test_a_run_that_goes_on_is_not_continued_by_a_second_process(tmp_path):
    out, refused = tmp_path / "run", []

    def second(status):
        if status.step in (1, 5):
            with pytest.raises(RunError) as raised:
                training.resume(out)
            refused.append(str(raised.value))

    with pytest.raises(Stopped):
        training.start(config(out), Surroundings(watch=second, stop=lambda: len(refused) > 0))
    training.resume(out, Surroundings(watch=second))
    assert len(refused) == 2
    for said in refused:
        assert f"another process is training in {out}" in said
        assert "or give a new --out" in said
    assert [row["step"] for row in RunFolder(out).metrics()] == [1, 2, 3, 4, 5, 6]


def lives(pipe):
    pipe.send("begun")
    pipe.recv()


def test_a_process_that_was_forked_keeps_no_lock(tmp_path):
    path = tmp_path / "config.json"
    path.touch()
    lock = Lock(path)
    assert lock.take()
    assert not Lock(path).take()
    fork = multiprocessing.get_context("fork")  # as the loader's workers are
    ours, theirs = fork.Pipe()
    child = fork.Process(target=lives, args=(theirs,), daemon=True)
    child.start()
    assert ours.recv() == "begun"
    lock.release()
    other = Lock(path)
    assert other.take()
    other.release()
    ours.send("end")
    child.join()


def test_where_there_are_no_locks_runs_go_on_without(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    assert Lock(tmp_path / "config.json").take()
    training.start(config(tmp_path / "run"))


def resumed(rank, folder):
    try:
        training.resume(folder / "run")
    except RunError as error:
        return str(error)


@pytest.mark.slow
def test_no_rank_goes_on_with_a_run_that_is_taken(tmp_path):
    with pytest.raises(Stopped):
        training.start(config(tmp_path / "run"), Surroundings(stop=lambda: True))
    lock = Lock(tmp_path / "run" / "config.json")
    assert lock.take()
    for said in spawn(resumed, 2, tmp_path):
        assert "another process is training in" in said
    lock.release()
