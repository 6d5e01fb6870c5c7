"""Ranks that torchrun has started: they meet, one of them speaks, and all end together.

torch is imported when ranks meet, not before: the command line asks here who may speak.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from superbatch.errors import RunError, SuperbatchError


_FAILED = "superbatch/failed"
"""Where ranks count those that failed."""


class Silent(SuperbatchError):
    """Another rank has said what went wrong: this one ends without a word."""


def started() -> bool:
    """Whether torchrun has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def several() -> bool:
    """Whether this process is one of several ranks."""
    return started() and int(os.environ["WORLD_SIZE"]) > 1


def speaks() -> bool:
    """Whether this process says what all would say: the first rank, or the only process."""
    return not started() or os.environ["RANK"] == "0"


@contextmanager
def joined(timeout_seconds: float) -> Iterator[None]:
    """Within: this process is a rank among those that torchrun has started, if it has.

    A rank that waits longer than ``timeout_seconds`` for the others ends. Of ranks that fail, the
    first raises its error, and the others ``Silent``.
    """
    if not started():
        yield
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield
        distributed.barrier()
    except BaseException as error:
        if not _first_to_fail():
            raise Silent("another rank has said what went wrong") from error
        if isinstance(error, RuntimeError) and _is_about_others(error):
            raise RunError(
                f"another rank has ended, or was silent for {timeout_seconds:.0f} s "
                "(--ranks.timeout-seconds); torchrun says below which, and how. Continue with "
                f"--resume ({str(error).strip().splitlines()[0]})"
            ) from error
        raise


def leave(code: int) -> int:
    """``code``, to exit with; a rank does not come back from here.

    What gloo still runs may abort a process that tidies up after it, so ranks end at once.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _first_to_fail() -> bool:
    """Whether no other rank has failed before; torchrun's own process keeps the count."""
    from torch.distributed import distributed_c10d

    try:
        return bool(distributed_c10d._get_default_store().add(_FAILED, 1) == 1)
    except RuntimeError:  # the keeper has gone too
        return speaks()


def _is_about_others(error: RuntimeError) -> bool:
    from torch import distributed

    words = ("gloo", "Connection closed by peer", "Timed out", "NCCL", "Connection reset")
    known = (distributed.DistBackendError, distributed.DistNetworkError)
    return isinstance(error, known) or any(word in str(error) for word in words)
