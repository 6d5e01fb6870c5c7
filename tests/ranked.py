"""Ranks for tests: processes of this host that meet through a file."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from superbatch.distributed import world


# Ranks begin as copies of one process that has imported torch, once: it takes each of them seconds.
IMPORTED = ["torch._dynamo", "superbatch.training", "timm", "sklearn.datasets"]


@dataclass(frozen=True)
class DiesOnce:
    """What ranks run, the second of which kills itself once, after ``step`` steps."""

    work: Callable
    died: Path
    """Is there once it has."""
    step: int

    def __call__(self, around):
        done = count(1)

        def stop():  # asked once a step
            if world()[0] == 1 and next(done) == self.step and not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return around.stop()

        return self.work(replace(around, stop=stop))


def spawn(work, ranks, folder):
    """Run ``work(rank, folder)`` on so many gloo ranks; what each returns, in their order."""
    meeting = folder / f"meeting-{ranks}"
    meeting.mkdir()
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    multiprocessing.start_processes(
        _work, args=(work, ranks, folder, meeting), nprocs=ranks, start_method="forkserver"
    )
    return [torch.load(meeting / f"{rank}.pt") for rank in range(ranks)]


def _work(rank, work, ranks, folder, meeting):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}/meet", rank=rank, world_size=ranks
    )
    torch.save(work(rank, folder), meeting / f"{rank}.pt")
    distributed.barrier()
    # All is written. gloo's own threads may abort a process that goes on to tidy up.
    os._exit(0)
