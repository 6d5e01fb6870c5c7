"""Actors that score for a run elsewhere, each built from the configuration alone."""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from superbatch import build, feed
from superbatch.actors.actor import Actor, Setup, Weights, Work, scoring, weights_of
from superbatch.actors.news import Found, Transport
from superbatch.actors.process import Processes
from superbatch.actors.remote import Publish, RemoteActors
from superbatch.actors.weights import WeightBoard
from superbatch.checks import bank_limit
from superbatch.clock import Clock
from superbatch.config import Config
from superbatch.devices import pick_device
from superbatch.distributed import world
from superbatch.errors import ConfigError
from superbatch.learner import Learner
from superbatch.problems import problem_of
from superbatch.references import AnyReference, Reference
from superbatch.seeds import derived_seed
from superbatch.sources import plain
from superbatch.sources.duplicates import without_duplicates
from superbatch.sources.stream import Batches
from superbatch.types import Role


if TYPE_CHECKING:
    from superbatch.actors.ray import Cluster

NEVER = sys.maxsize
"""A step that no run comes to."""


def scores_elsewhere(config: Config) -> bool:
    """Whether others score for the run; where there is nothing to score, nobody does."""
    return config.actors.kind != "inline" and build.criterion_of(config).roles != frozenset()


def remote_actors(
    config: Config,
    stream: Batches,
    trained: Mapping[Role, Learner],
    reference: AnyReference | None,
    *,
    step: int,
    arrived: Callable[[Found], None],
    clock: Clock,
) -> RemoteActors:
    """Actors elsewhere that score what comes after ``step``, and nothing that no step needs."""
    settings, limit = config.actors, bank_limit(config.select)
    staleness = settings.max_staleness

    def needed_at(number: int) -> int:
        step = limit.needed_at(number, config.select.super_batch_size)
        return step if step <= config.steps else NEVER

    most = max(settings.count, settings.count_max or 1)
    inputs = feed.inputs_of(stream)
    transport, publish = transport_of(config, trained, reference, step, inputs)
    return RemoteActors(
        transport,
        publish,
        count=settings.count,
        count_max=settings.count_max,
        numbers=range(stream.state_dict()["step"] + 1, NEVER),
        max_staleness=2 * most if staleness is None else staleness,
        timeout=settings.timeout,
        step=step,
        ids_of=stream.ids_of,
        arrived=arrived,
        needed_at=needed_at,
        clock=clock,
    )


def transport_of(
    config: Config,
    trained: Mapping[Role, Learner],
    reference: AnyReference | None,
    step: int,
    inputs: feed.Inputs,
) -> tuple[Transport, Publish]:
    """What starts actors and talks to them, with the weights after ``step`` published; and how the
    next ones are. ``inputs`` are what the learner reads.
    """
    # A reference that was trained for this run is one that is given, to its actors.
    checkpoint = reference.facts.get("checkpoint") if reference else None
    given = config.changed(reference=checkpoint) if checkpoint else config
    roles = published_roles(config)
    weights = weights_of({role: trained[role] for role in roles})
    device = device_elsewhere(config)
    setup = partial(actor_of, given, str(device), world(), inputs)
    if config.actors.kind == "ray":
        cluster = cluster_of(config, setup, step, weights)
        return cluster, partial(publish_weights, cluster.publish, roles)
    board = WeightBoard(step, weights, device=shared_device(weights, device))
    processes = processes_of(config, partial(scoring, setup, board), device)
    return processes, partial(publish_weights, board.publish, roles)


def publish_weights(
    publish: Callable[[int, Weights], None],
    roles: Iterable[Role],
    step: int,
    trained: Mapping[Role, Learner],
) -> None:
    """``publish`` the weights after ``step`` of ``roles``."""
    publish(step, weights_of({role: trained[role] for role in roles}))


def device_elsewhere(config: Config) -> torch.device:
    """Where actors compute; on hosts of a cluster there may be other devices than here."""
    asked = config.actors.device
    if config.actors.kind == "ray":
        try:
            return torch.device(asked or ("cuda" if config.ray.gpus else "cpu"))
        except RuntimeError as error:
            raise ConfigError(
                f"--actors.device {asked} is no device; name one of the hosts' own, such as cuda"
            ) from error
    return pick_device(config.device) if asked is None else pick_device(asked, "--actors.device")


def processes_of(config: Config, setup: Callable[[], Work], device: torch.device) -> Processes:
    """Processes of this host that compute on ``device``."""
    return Processes(
        setup,
        threads=config.actors.threads,
        cores=config.actors.cores,
        # CUDA does not work in a process that was forked, whatever the one it was forked from did.
        method="spawn" if device.type == "cuda" else "forkserver",
    )


def cluster_of(
    config: Config, setup: Setup, step: int, weights: Weights, *, cpus: float | None = None
) -> "Cluster":
    """Actors of a Ray cluster, each of which takes up ``cpus`` cores, if not ``--ray.cpus``."""
    from superbatch.actors.membership import Demands  # needs the extra [ray]
    from superbatch.actors.ray import Cluster

    settings = config.ray
    cpus = settings.cpus if cpus is None else cpus
    return Cluster(
        setup,
        step,
        weights,
        demands=Demands(cpus, settings.gpus, settings.resource),
        address=settings.address,
        threads=config.actors.threads,
    )


def published_roles(config: Config) -> list[Role]:
    """The models that score and learn: their weights change, and actors must have the new ones."""
    scoring = build.criterion_of(config).roles
    return [role for role in build.learning_roles(config) if role in scoring]


def shared_device(weights: Weights, device: torch.device) -> torch.device:
    """Where processes share ``weights``: on the GPU that all of them are on, or in memory."""
    here = torch.empty(0, device=device).device
    everywhere = {tensor.device for tensors in weights.values() for tensor in tensors.values()}
    return here if everywhere <= {here} else torch.device("cpu")


def actor_of(config: Config, device: str, place: tuple[int, int], inputs: feed.Inputs) -> Actor:
    """One actor of the run of ``config``, wherever it is; its reference must be there already.

    It scores what is the part of the learner's rank, ``place`` (rank, ranks), of each super-batch.
    Raises ``DataError`` where it does not read the learner's ``inputs``.
    """
    torch.manual_seed(derived_seed(config.seed, "global"))
    where = torch.device(device)
    problem = problem_of(config)
    view = feed.scored_view_of(config)
    stream = feed.stream_of(config, problem, config.select.super_batch_size, view, place)
    feed.refuse_unlike(feed.inputs_of(stream), inputs, "an actor", "the learner")
    trained = {
        role: build.learner_of(config, role, problem, where) for role in published_roles(config)
    }
    reference = None
    if build.criterion_of(config).roles - trained.keys():
        reference = Reference(config, problem, where, view)
    return Actor(
        read=stream.batch_of,
        scorer=build.scorer_of(config, problem, trained, reference),
        weights=weights_of(trained),
        view=without_duplicates if config.data.deduplicate else plain,
        device=where,
        looked_up_in_vain=reference.scored_on_demand if reference else nothing,
    )


def nothing() -> int:
    """What a run without a table looks up in vain."""
    return 0
