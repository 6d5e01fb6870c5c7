"""Actors that open other data than the learner: their scores would be given to other examples."""

import numpy as np
import pytest

from superbatch import feed, training
from superbatch.courses import student_of
from superbatch.enlist import actor_of
from superbatch.errors import DataError
from superbatch.problems import problem_of
from superbatch.recipes import recipe


TINY = "mu-2400/4"


def write(path, count, shift=0):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=(np.arange(count) + shift) % 3)


@pytest.fixture
def config(tmp_path):
    write(tmp_path / "a.npz", 200)
    return recipe("classact_online").changed(
        steps=4,
        out=str(tmp_path / "run"),
        device="cpu",
        models={"learner": TINY, "online": TINY, "reference": TINY},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        data={"path": str(tmp_path / "a.npz")},
        actors={"kind": "process"},
    )


def test_a_run_ends_when_its_actors_open_other_data(config, tmp_path, monkeypatch):
    def then_changed(*arguments):
        problem = problem_of(*arguments)
        write(tmp_path / "a.npz", 180)
        return problem

    monkeypatch.setattr(training, "problem_of", then_changed)
    with pytest.raises(DataError, match="an actor reads other data than the learner") as raised:
        training.start(config)
    assert "put them back, then continue with --resume" in str(raised.value)


@pytest.mark.parametrize(
    ("count", "shift", "sections", "said"),
    [
        (200, 1, {}, "the data is"),
        (200, 0, {"part": "first_half"}, "the examples to train on, or their order is"),
    ],
)
def test_actors_and_students_say_what_is_other(count, shift, sections, said, config, tmp_path):
    stream = feed.reference_stream_of(config, problem_of(config))
    inputs = feed.inputs_of(stream)
    actor_of(config, "cpu", (0, 1), inputs)
    student_of(config, "reference", "cpu", inputs)
    write(tmp_path / "a.npz", count, shift)
    other = config.changed(data=sections)
    with pytest.raises(DataError, match=said):
        actor_of(other, "cpu", (0, 1), inputs)
    with pytest.raises(DataError, match=said):
        student_of(other, "reference", "cpu", inputs)
