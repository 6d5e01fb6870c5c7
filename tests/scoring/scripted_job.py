"""A job whose blocks do what files in a folder say: other processes meet it."""

import os
import signal
from functools import partial

from test_scoring_blocks import Data, job_of, plain_loss

from superbatch.errors import DataError


def scripted_job(folder):
    """Of seven blocks of three batches each; ids 0, 3, 6, ... and 8 of them in a block."""
    return job_of(Data(), partial(loss, folder))


def loss(folder, batch):
    """What a file with the name of an id of ``batch`` tells to do is done before it is scored."""
    for order in folder.iterdir():
        if order.name.isdigit() and int(order.name) in batch["id"].tolist():
            what = order.read_text()
            if what != "die always":
                order.unlink()
            follow(what)
    return plain_loss(batch)


def follow(what):
    if what.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise DataError("an image is no image")
    raise ValueError("a bad number")
