"""Actors that do what files in a folder tell them: every kind of actors elsewhere meets them."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from superbatch.actors.actor import Actor, weights_of
from superbatch.actors.alone import Student
from superbatch.actors.scorers import Scores
from superbatch.errors import DataError
from superbatch.learner import Learner, Optimisation
from superbatch.sources import Stream
from superbatch.tasks import Classification


SIZE = 4
"""Examples in a super-batch; number ``n`` has the ids ``4 n`` to ``4 n + 3``."""


class Folder:
    """Where a test says what is to happen, and reads what did."""

    def __init__(self, path):
        self.path = Path(path)

    def tell(self, what, number, *, always=False):
        """At super-batch ``number``, do ``what``: die, hang, crash or refuse; once or always."""
        (self.path / f"{what}-{number}").write_text("always" if always else "once")

    def told(self, what, number):
        order = self.path / f"{what}-{number}"
        try:
            once = order.read_text() == "once"
        except FileNotFoundError:
            return False
        if once:
            order.unlink()
        return True

    def note(self, number):
        with (self.path / "begun").open("a") as file:
            file.write(f"{number} {os.getpid()}\n")

    def begun(self):
        """The numbers whose scoring began, with the process that did it."""
        if not (self.path / "begun").exists():
            return []
        lines = (self.path / "begun").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]


def learner_of(step):
    """A model whose every weight is ``step``."""
    learner = Learner(
        nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 8)),
        Classification(),
        Optimisation(schedule=lambda step: 0.1),
    )
    fill(learner, step)
    return learner


def fill(learner, step):
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.fill_(step)


def setup_of(folder, *, pause=0.0):
    return partial(scripted, str(folder), pause)


def scripted(path, pause):
    folder = Folder(path)
    if folder.told("crash", "setup"):
        raise ValueError("no data today")
    online = learner_of(-1)
    return Actor(
        read=partial(read, folder, pause),
        scorer=partial(score, online),
        weights=weights_of({"online": online}),
    )


def obey(folder, pause, number):
    folder.note(number)
    if folder.told("die", number):
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.told("hang", number):
        time.sleep(1000)
    if folder.told("crash", number):
        raise ValueError("a bad number")
    if folder.told("refuse", number):
        raise DataError("an image is no image")
    time.sleep(pause)


def read(folder, pause, number):
    obey(folder, pause, number)
    ids = torch.arange(SIZE) + SIZE * number
    return {"id": ids, "draw": ids + 1, "image": torch.zeros(SIZE, 3)}, frozenset({number})


class Points:
    """A hundred points in three classes; those whose id ends with a 7 are broken."""

    ids = np.arange(100)
    fingerprint = "points"
    skipped = frozenset()

    def __len__(self):
        return 100

    def read(self, rows):
        whole = torch.from_numpy(rows[rows % 10 != 7])
        angles = whole.double().outer(torch.arange(1.0, 9.0).double())
        return {"id": whole, "image": angles.sin().float(), "label": whole % 3}


def points():
    """Batches of six of them, endless."""
    return Stream(Points(), np.arange(100), batch_size=6, seed=5)


def reference():
    """A model that draws random numbers while it learns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.BatchNorm1d(16), nn.Linear(16, 3))
    return Learner(model, Classification(), Optimisation(schedule=rate))


def rate(step):
    return 0.1 / step


def student(path, pause, carries):
    folder, stream = Folder(path), points()

    def read(number):
        obey(folder, pause, number)
        return stream.batch_of(number)

    return Student(reference(), read, role="reference", seed=11, carries=carries)


def score(online, batch):
    """What all the weights are, if they are all the same; else not a number."""
    values = torch.cat([weight.detach().flatten() for weight in online.model.parameters()])
    whole = values[0] if bool((values == values[0]).all()) else torch.tensor(torch.nan)
    seen = whole.expand(SIZE).clone()
    return Scores(batch, batch["id"].float(), {"online": seen})
