"""Ranks for tests: processes of this host that meet through a file."""

import os

import torch
from torch import distributed, multiprocessing


# Ranks begin as copies of one process that has imported torch, once: it takes each of them seconds.
IMPORTED = ["torch._dynamo", "superbatch.training", "timm", "sklearn.datasets"]


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
