"""A Ray cluster as who computes on it meets it: joining, leaving, and whether it has room."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import AuthenticationError

from superbatch.errors import RunError


T = TypeVar("T")

LOCAL = "local"
"""Where no cluster is named: Ray on this host, for as long as the run lasts."""

ANSWERS_WITHIN = 5.0
"""Seconds for a cluster to take a connection; Ray itself would try for minutes."""

LOOK_AGAIN = 5.0
"""Seconds after which who waits sees again what hosts there are: a dead one is missed late."""

_A_LITTLE = 1e-3  # of a resource that stands for a kind of host: an actor uses none of it up
_LOG = logging.getLogger("superbatch.actors")


@dataclass(frozen=True)
class Demands:
    """What a host must have free for an actor."""

    cpus: float = 1.0
    gpus: float = 0.0
    """Also a part of one, for actors that share it."""
    resource: str | None = None
    """Only hosts that were started with this custom resource; none: any."""

    def options(self) -> dict[str, Any]:
        """The same for Ray, which replaces nothing: who does also knows what was lost."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "resources": {self.resource: _A_LITTLE} if self.resource else {},
            "max_restarts": 0,
        }

    def room(self, host: dict[str, float]) -> int:
        """How many actors fit on a ``host`` with so much of each of Ray's resources."""
        if self.resource and host.get(self.resource, 0.0) < _A_LITTLE:
            return 0
        by_cpus, gpus = times(host.get("CPU", 0.0), self.cpus), host.get("GPU", 0.0)
        if 0 < self.gpus < 1:  # a part of one, and never parts of two
            return min(by_cpus, int(gpus) * times(1.0, self.gpus))
        return min(by_cpus, times(gpus, self.gpus))

    def __str__(self) -> str:
        said = [f"--ray.cpus {self.cpus:g}", f"--ray.gpus {self.gpus:g}"]
        return ", ".join(said + ([f"--ray.resource {self.resource}"] if self.resource else []))


_FINEST = 1e-4  # of a resource, as Ray counts: so 0.1 is ten times in 1
_MANY = 1_000_000


def times(has: float, needs: float) -> int:
    """How often what ``needs`` so much of something can have it of what there is."""
    return round(has / _FINEST) // round(needs / _FINEST) if needs else _MANY


@final
class Room:
    """What a cluster has room for; says so, once each time that it changes, where it lacks some."""

    def __init__(self, demands: Demands, now: Callable[[], float] = time.monotonic) -> None:
        self._demands = demands
        self._now = now
        self._next = now()
        self._lack: tuple[int, int] | None = None

    def look(self, wanted: int) -> None:
        """See whether the hosts there are can have ``wanted`` actors, if it is time to."""
        if self._now() < self._next:
            return
        self._next = self._now() + LOOK_AGAIN
        found = room(self._demands)
        lack = (found, wanted) if found < wanted else None
        if lack is not None and lack != self._lack:
            like = self._demands.resource
            _LOG.warning(
                "the Ray cluster has room for %d of %d actors (%s); the others wait for hosts to "
                "join it (ray start --address HOST:PORT%s)",
                *(found, wanted, self._demands),
                f" --resources '{json.dumps({like: 1})}'" if like else "",
            )
        self._lack = lack


def room(demands: Demands) -> int:
    """How many actors the hosts of the cluster can have at once."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(demands.room(node["Resources"]) for node in nodes if node["Alive"])


def join(address: str | None, demands: Demands | None = None) -> bool:
    """Connect to the cluster at ``address``, or start one here; False if connected already.

    Raises ``RunError`` where there is no cluster, or this host alone can never meet ``demands``.
    """
    if ray.is_initialized():
        return False
    try:
        if address is not None:
            _knock(address)
        ray.init(
            address=address or LOCAL,
            include_dashboard=False if address is None else None,
            log_to_driver=False,  # what an actor met is told once, by the run
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises many kinds, a bare one where it starts too slowly
        raise RunError(_why_not(address, error)) from error
    if address is None and demands is not None and room(demands) == 0:
        ray.shutdown()
        raise RunError(
            f"this host can have no actor that needs so much ({demands}); ask for less, or join "
            "hosts that have it to a cluster and name it with --ray.address"
        )
    return True


def _knock(address: str) -> None:
    """Raise what is wrong at once where nobody answers."""
    if "://" not in address:
        address = f"//{canonicalize_bootstrap_address(address)}"  # what "auto" finds, for example
    where = urlsplit(address)
    socket.create_connection((where.hostname or "", where.port or 0), ANSWERS_WITHIN).close()


def _why_not(address: str | None, error: BaseException) -> str:
    if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error.__cause__):
        return (
            f"the Ray cluster at {address} takes only who has its token; export "
            "RAY_AUTH_MODE=token, and have the ~/.ray/auth_token of its head on every host"
        )
    if address is None:
        return f"Ray does not start on this host: {first_line(error)}"
    return (
        f"there is no Ray cluster at {address} ({first_line(error)}); start one with "
        "ray start --head, join this and other hosts to it with ray start --address HOST:PORT, or "
        "leave --ray.address out for a Ray of this host alone"
    )


def leave(joined: bool, handles: Sequence[Any]) -> None:
    """End the actors of ``handles`` and, if ``joined``, what connects to the cluster."""
    for handle in handles:
        ray.kill(handle, no_restart=True)
    if joined:
        ray.shutdown()


def first_line(error: BaseException) -> str:
    """What is wrong, without Ray's advice."""
    return str(error).strip().partition("\n")[0]


def from_here(setup: Callable[[], T]) -> Callable[[], T]:
    """``setup`` for a host whose Ray was started elsewhere: paths begin here, there too."""
    return partial(_from, Path.cwd(), setup)


def _from(folder: Path, setup: Callable[[], T]) -> T:
    if folder.is_dir():
        os.chdir(folder)  # an actor has its process to itself
    return setup()
