"""What a loss of power leaves of a run: no checkpoint whose lines are missing."""

import os

from superbatch import training
from superbatch.recipes import recipe


def test_lines_are_on_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    metrics, checkpoints = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "checkpoints"
    kept, fsync = [], os.fsync

    def spied(descriptor):
        place = os.fstat(descriptor)
        if metrics.exists() and os.path.samestat(place, metrics.stat()):
            kept.append((metrics.read_text().count("\n"), len(list(checkpoints.glob("step-*")))))
        elif os.path.samestat(place, metrics.parent.stat()) and metrics.exists():
            kept.append("its name")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spied)
    training.start(
        recipe("uniform").changed(
            steps=4,
            out=str(tmp_path / "run"),
            device="cpu",
            models={"learner": "mu-2400/4"},
            record={"log_every": 1, "checkpoint_every": 2},
        )
    )
    assert [each for each in kept if each != "its name"] == [(2, 0), (4, 1)]
    assert kept[:2] == [(2, 0), "its name"]
