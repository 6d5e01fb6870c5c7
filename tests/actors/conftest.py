"""What tests of actors in processes need."""

import multiprocessing

import pytest


@pytest.fixture(scope="session", autouse=True)
def server_of_processes():
    """Imports once what every actor of every test needs; the tests' time limits begin after."""
    context = multiprocessing.get_context("forkserver")
    slow = ["superbatch.enlist", "sklearn.datasets", "timm.models.vision_transformer"]
    context.set_forkserver_preload(slow)
    first = context.Process(target=int)
    first.start()
    first.join()
