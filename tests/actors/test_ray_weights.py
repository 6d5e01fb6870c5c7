"""Weights in Ray's object store are read where they lie, and what comes back is one's own."""

import numpy as np
import pytest


pytest.importorskip("ray")
import ray

from superbatch.actors.news import Found
from superbatch.actors.ray import lent, writable


def test_weights_are_read_where_they_lie(ray_hosts):
    stored = ray.put({"weight": np.arange(100_000.0), "scale": np.array(2.5)})
    first, second = ray.get(stored), ray.get(stored)
    place = lent(first["weight"]).data_ptr()
    assert place == lent(second["weight"]).data_ptr()  # one memory for all who read it
    assert not first["weight"].flags.writeable
    assert lent(first["scale"]).item() == 2.5


def test_what_actors_found_may_be_written_to(ray_hosts):
    ids, scores = np.arange(30_000), np.zeros(30_000, dtype=np.float32)
    found = Found(0, 1, {"id": ids, "draw": ids}, scores, {"online": scores}, 0, 0.1)
    there = ray.get(ray.put(found))
    assert not there.scores.flags.writeable
    here = writable(there)
    here.scores[0] = here.losses["online"][0] = 1
    here.examples["id"][0] = 7
    assert (there.scores[0], there.losses["online"][0], there.examples["id"][0]) == (0, 0, 0)
