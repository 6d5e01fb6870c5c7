"""Ranks that Ray Train starts on a cluster, and who waits for them.

Needs the extra ``[ray]``. Every host must have the same ``superbatch`` and see the data, the run
folder and the folder that superbatch was started in under the same paths. Ranks run what they run
under torchrun; here is only how they start, what they tell, and how they end.
"""

import asyncio
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from superbatch import launch
from superbatch.actors.membership import first_line, join, leave
from superbatch.config import Config
from superbatch.distributed import is_main, world
from superbatch.errors import Failed, RunError, Stopped, SuperbatchError
from superbatch.files import out_of_space
from superbatch.surroundings import Status, Surroundings


Work = Callable[[Surroundings], dict[str, Any]]
"""What each rank runs, picklable; the result of rank 0 is that of all."""

ROOM_SECONDS = 20.0
"""How long ranks wait for room on a cluster that is busy. Where hosts are started on demand, Ray
Train's own RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S gives them longer."""

_POLL_SECONDS = 0.1


def on_ray(work: Work, config: Config, around: Surroundings) -> dict[str, Any]:
    """Run ``work`` on the ranks that ``config`` asks for; what it gave rank 0.

    ``around`` is told of progress and may stop all ranks. A Ray of this host starts where no
    address is given. Raises what the first rank that failed met, or ``RunError`` where a rank was
    lost more often than may be, where there is no cluster, or where it has no room.
    """
    # Ray prints what it makes of a lost process, whatever it was asked to leave out.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return _on_ray(work, config, around)


def _on_ray(work: Work, config: Config, around: Surroundings) -> dict[str, Any]:
    joined = join(config.ray.address)
    desk: Any = None
    try:
        refuse_without_room(config, resources())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        with TemporaryDirectory() as scratch:
            trainer = _trainer(_Rank(work, desk, config, around.command, Path.cwd()), scratch)
            error = _watched(trainer, desk, around)
        told: Told = ray.get(desk.told.remote())
    finally:
        # Rank 0 looks up to the desk: where Ray goes on without us, ranks stop without it.
        leave(joined, [] if desk is None else [desk])
    if told.error is not None:
        raise told.error
    if error is not None:
        raise lost(error, told) from error
    assert told.result is not None  # no rank has failed
    return told.result


def refuse_without_room(config: Config, has: Mapping[str, float]) -> None:
    """Raise ``RunError`` where a cluster that ``has`` so much can never hold ranks and actors."""
    ranks, actors = config.ranks, config.ray
    wants = {"CPU": ranks.count * ranks.cpus, "GPU": float(ranks.count * ranks.gpus)}
    said = f"{ranks.count} ranks (--ranks.count)"
    if config.actors.kind == "ray":
        each = config.actors.count  # of every rank
        said += f" with {each} actors each (--actors.count)"
        wants["CPU"] += ranks.count * each * actors.cpus
        wants["GPU"] += ranks.count * each * actors.gpus
    for name, amount in wants.items():
        there = has.get(name, 0.0)
        if amount > there:
            raise RunError(
                f"{said} take up {amount:g} {name}s and the Ray cluster has {there:g}; "
                "ask for fewer, give each less (--ranks.cpus, --ray.cpus), or start more hosts"
            )
    for flag, resource in {"ranks": ranks.resource, "ray": actors.resource}.items():
        if resource is not None and resource not in has:
            raise RunError(
                f"no host of the Ray cluster has --{flag}.resource {resource}; start one with "
                f"""ray start --resources '{{"{resource}": 1}}' ..."""
            )


def resources() -> dict[str, float]:
    """What the cluster has of each resource, used or free."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _trainer(rank: "_Rank", scratch: str) -> TorchTrainer:
    """Ray Train's part: to place ranks, to have them meet, and to start lost ones again."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(ROOM_SECONDS))
    ranks = rank.config.ranks
    needs = {"CPU": ranks.cpus} | ({"GPU": float(ranks.gpus)} if ranks.gpus else {})
    if ranks.resource is not None:
        needs[ranks.resource] = 1e-3  # it stands for a kind of host: a rank uses none of it up
    run: Any = RunConfig(
        name="superbatch",
        storage_path=scratch,  # our checkpoints are our own; it insists on a folder
        failure_config=FailureConfig(max_failures=ranks.restarts, controller_failure_limit=0),
    )
    return TorchTrainer(
        rank,
        torch_config=TorchConfig(
            backend=launch.backends(gpu=ranks.gpus > 0),
            timeout_s=max(1, round(ranks.timeout_seconds)),
        ),
        scaling_config=ScalingConfig(
            num_workers=ranks.count, use_gpu=ranks.gpus > 0, resources_per_worker=needs
        ),
        run_config=run,
    )


def _watched(trainer: TorchTrainer, desk: Any, around: Surroundings) -> Exception | None:
    """Wait for all ranks, passing on what they tell and whether to stop; what Ray Train met."""
    met: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # of Ray's as well
            met.append(error)

    # In a thread: in the main one it would take Ctrl-C for itself, and kill ranks within a step.
    thread = Thread(target=fit, daemon=True)
    thread.start()
    asked = False
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        for status in ray.get(desk.statuses.remote()):
            around.watch(status)
        if around.stop() and not asked:
            desk.stop.remote()
            asked = True
    return met[0] if met else None


def lost(error: Exception, told: "Told") -> RunError:
    """The sentence for ranks that ended, or never began, without one."""
    if isinstance(error, WorkerGroupError):
        # Of a process that is gone Ray Train says only that it did not answer, and why within.
        why = {
            rank: getattr(each, "health_check_failure", each)
            for rank, each in sorted(error.worker_failures.items())
        }
        dead = [
            f"rank {rank}: {first_line(each)}"
            for rank, each in why.items()
            if isinstance(each, RayError)
        ]
        if not dead:  # another rank has seen it before Ray has
            return Failed(told.lost or f"ranks ended without a word. {launch.GO_ON}")
        return Failed(f"a rank was lost ({'; '.join(dead)}). {launch.GO_ON}")
    cause = error.controller_failure if isinstance(error, ControllerError) else error
    if type(cause).__name__ == "WorkerGroupStartupTimeoutError":  # not in Ray's public names
        return RunError(
            "ranks found no room on the Ray cluster, which others use or whose hosts are too small "
            "for one (--ranks.cpus, --ranks.gpus); wait, ask for less, or start more hosts"
        )
    return Failed(f"Ray Train could not run ranks ({first_line(cause)}); Ray's logs say more")


@dataclass(frozen=True)
class Told:
    """What ranks have told so far: the result of rank 0, or what the first that failed met."""

    result: dict[str, Any] | None = None
    error: Exception | None = None
    lost: str | None = None
    """What a rank said of another that it had lost; Ray Train may start all again."""


@dataclass(frozen=True)
class _Rank:
    """What Ray Train calls on each rank, where the process group is there already."""

    work: Work
    desk: Any
    config: Config
    command: list[str]
    folder: Path

    def __call__(self) -> None:
        told: Told = ray.get(self.desk.told.remote())
        if told.error is not None:  # what would only happen again
            return
        try:
            self._enter()
            with launch.joined(self.config.ranks.timeout_seconds, "Ray's logs say"):
                result = self.work(self._around())
        except Exception as error:
            self._tell(error)
            # All ranks stop together; else those that have not failed wait until this one ends.
            if isinstance(error, Stopped) or isinstance(error.__cause__, Stopped):
                return
            raise
        if is_main():
            ray.get(self.desk.tell.remote(Told(result=result)))

    def _enter(self) -> None:
        """Go to the folder that paths are relative to; Ray Train has one of its own."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise RunError(
                f"host {gethostname()} has no folder {self.folder}, where superbatch was started; "
                "ranks need the same paths on every host"
            ) from error

    def _around(self) -> Surroundings:
        if not is_main():
            return Surroundings(self.command)
        asked = self.desk.asked.remote()
        return Surroundings(
            self.command,
            watch=lambda status: self.desk.show.remote(status),
            stop=lambda: bool(ray.wait([asked], timeout=0)[0]),
        )

    def _tell(self, error: Exception) -> None:
        if isinstance(error, launch.Silent):
            return
        if isinstance(error, launch.Lost):
            told = Told(lost=str(error))
        elif isinstance(error, SuperbatchError) or full(error):
            told = Told(error=error)
        else:
            trace = "".join(traceback.format_exception(error))
            told = Told(error=Failed(f"rank {world()[0]} failed:\n\n{trace}"))
        ray.get(self.desk.tell.remote(told))


def full(error: Exception) -> bool:
    """Whether ``error`` is of a full disk."""
    return isinstance(error, OSError) and out_of_space(error)


class _Desk:
    """Where ranks, and who waits for them, leave word for each other."""

    def __init__(self) -> None:
        self._statuses: list[Status] = []
        self._told = Told()
        self._stop = asyncio.Event()

    async def show(self, status: Status) -> None:
        self._statuses.append(status)

    async def statuses(self) -> list[Status]:
        """Those that nobody has asked for yet."""
        new, self._statuses = self._statuses, []
        return new

    async def stop(self) -> None:
        self._stop.set()

    async def asked(self) -> None:
        """Answers once all are asked to stop."""
        await self._stop.wait()

    async def tell(self, told: Told) -> None:
        if self._told.error is None:
            self._told = told

    async def told(self) -> Told:
        return self._told
