import os
import platform
import subprocess
import sys

import pytest

from superbatch.config import Config
from superbatch.enlist import device_elsewhere
from superbatch.errors import ConfigError


GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource
from superbatch.devices import pick_device
import torch
pick_device("cpu")
torch.ones(16 << 20)  # 64 MB, and what they take the first time
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment):
    """Pages that the system had to give while 64 MB were taken and freed forty times."""
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    told = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(told.stdout)


@pytest.mark.skipif(not GLIBC, reason="other C libraries have no such thresholds")
def test_what_a_step_on_the_cpu_frees_is_kept_unless_the_environment_chose_otherwise():
    # kept: while the heap grows to hold them, five times at most were seen; given back: all forty
    assert 3 * faults() < faults(MALLOC_TRIM_THRESHOLD_="131072")


def test_a_device_of_actors_that_is_none_is_refused_on_a_cluster_too():
    config = Config().changed(actors={"kind": "ray", "device": "nonsense"})
    with pytest.raises(ConfigError, match=r"--actors.device nonsense is no device"):
        device_elsewhere(config)
