"""What several tests need."""

import os
from pathlib import Path

import jaxtyping
import pytest
import torch


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
