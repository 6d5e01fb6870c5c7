"""What tests of actors in processes need."""

import multiprocessing
import os
import sys

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


@pytest.fixture(scope="session")
def one_ray():
    """A Ray of this host that all tests of a process share: it takes seconds to start."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",  # whatever cluster this host may have been part of
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    yield
    ray.shutdown()
