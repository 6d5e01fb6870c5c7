"""What tests of actors in processes need."""

from multiprocessing import forkserver

import pytest


@pytest.fixture(scope="session", autouse=True)
def server_of_processes():
    """Imports once what every actor of every test needs."""
    forkserver.set_forkserver_preload(["superbatch.actors.process", "superbatch.tasks"])
    forkserver.ensure_running()
