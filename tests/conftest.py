"""What several tests need."""

import os
import sys
import tempfile
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings


# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# The models in tests are far too small for a second thread, which would mostly wait for its turn;
# and sums over one thread are the same bits on every machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory):
    """Indexes of shards that tests read are not left on the machine."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SUPERBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def unchecked():
    """Types are not checked within: what a user without the checks meets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    root = Path(__file__).parent.parent
    folder = Path(os.environ.get("SUPERBATCH_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SUPERBATCH_DATA")
    return folder


@pytest.fixture(scope="module")
def ray_hosts():
    """A Ray cluster of one host that the tests of a module share, and to which they add others.

    It takes seconds to start, and a process that was in another meanwhile cannot come back to it. A
    host that dies is missed after two, and not after a quarter of a minute as outside of tests; and
    Ray's processes do not give way to others, which on a busy machine leaves them next to nothing.
    """
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Ray's sockets are in it, with long names, and what it writes when it ends.
    folder = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
    quick = {
        "health_check_period_ms": 700,
        "health_check_failure_threshold": 3,
        "worker_niceness": 0,
    }
    with folder as place, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", place)
        hosts = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "num_gpus": 1,  # as far as it says
                "resources": {"head": 1},
                "include_dashboard": False,
                "_system_config": quick,
            },
        )
        join_as_test(hosts.address)
        yield hosts
        ray.shutdown()
        hosts.shutdown()


@pytest.fixture
def apart(ray_hosts):
    """``ray_hosts``, of which this process is not a part, as a user's is not before a run."""
    ray = pytest.importorskip("ray")
    ray.shutdown()
    yield ray_hosts
    join_as_test(ray_hosts.address)


def join_as_test(address):
    """Connect to a cluster, whose actors then see what tests see."""
    import ray

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
