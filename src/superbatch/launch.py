"""Ranks that torchrun has started: they meet, one of them speaks, and all end together.

torch is imported when ranks meet, not before: the command line asks here who may speak.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

from superbatch.errors import ConfigError, Failed, SuperbatchError


class Silent(SuperbatchError):
    """Another rank has said what went wrong: this one ends without a word."""


class Lost(Failed):
    """Another rank has ended or is silent; nothing is wrong with this one."""


GO_ON = "Once that is mended, continue with superbatch train --resume, on as many ranks or others"


def started() -> bool:
    """Whether torchrun, or who does as it does, has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def first() -> bool:
    """Whether this is rank 0, or the only process."""
    return not started() or os.environ["RANK"] == "0"


def speaks() -> bool:
    """Whether this process says what went wrong.

    Until ranks have met all find the same, and rank 0 says it; then whoever is not `Silent`.
    """
    return first() or _met()


@contextmanager
def one_voice() -> Iterator[None]:
    """Within: what all ranks would print, rank 0 prints."""
    if first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def refuse_several(command: str) -> None:
    """Raise ``ConfigError`` where ``command``, for one process, runs on several ranks."""
    if started() and os.environ["WORLD_SIZE"] != "1":
        raise ConfigError(
            f"superbatch {command} is for one process and torchrun has started "
            f"{os.environ['WORLD_SIZE']}; start it without torchrun (train alone is for several)"
        )


@contextmanager
def joined(timeout_seconds: float, who_knows: str = "torchrun says") -> Iterator[None]:
    """Within: this process is a rank among those that torchrun has started, if it has.

    Ranks that have met already, as those of Ray Train have, do not meet again. A rank that waits
    longer than ``timeout_seconds`` for the others ends. Of ranks that fail, the first raises its
    error, ``Lost`` if that is about others (``who_knows`` which), and the others ``Silent``.
    """
    if not started():
        yield
        return
    import torch
    from torch import distributed

    from superbatch.distributed import counts

    if not distributed.is_initialized():
        backend = backends(gpu=torch.cuda.is_available())
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    try:
        yield
        counts(0)  # none leaves before all are done
    except BaseException as error:
        if not _first_to_fail(store):
            raise Silent("another rank has said what went wrong") from error
        if isinstance(error, RuntimeError) and _is_about_others(error):
            did = "has ended"
            if "Timed out" in str(error) or "timeout" in str(error):
                did = f"was silent for {timeout_seconds:g} s (--ranks.timeout-seconds)"
            raise Lost(f"another rank {did}; {who_knows} which, and how. {GO_ON}") from error
        raise


def backends(*, gpu: bool) -> str:
    """What ranks send with: small numbers travel from CPU to CPU, also where there are GPUs."""
    return "cpu:gloo,cuda:nccl" if gpu else "gloo"


def leave(code: int) -> int:
    """``code``, to exit with; a rank does not come back from here.

    What gloo still runs may abort a process that tidies up after it, so ranks end at once.
    """
    if _met():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _met() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_initialized()


def _first_to_fail(store: Any) -> bool:
    """Whether no other rank has failed before; torchrun's own process keeps the ``store``."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return bool(store.add(f"superbatch/failed/{attempt}", 1) == 1)
    except RuntimeError:  # it has gone too
        return first()


def _is_about_others(error: RuntimeError) -> bool:
    from torch import distributed

    words = ("gloo", "Connection closed by peer", "Timed out", "NCCL", "Connection reset")
    known = (distributed.DistBackendError, distributed.DistNetworkError)
    return isinstance(error, known) or any(word in str(error) for word in words)
