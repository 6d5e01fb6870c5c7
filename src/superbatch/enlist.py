"""Actors that score for a run elsewhere, each built from the configuration alone."""

import sys
from collections.abc import Callable, Mapping
from functools import partial

import torch

from superbatch import build
from superbatch.actors.actor import Actor, Weights, weights_of
from superbatch.actors.news import Found, Transport
from superbatch.actors.process import Processes
from superbatch.actors.remote import RemoteActors
from superbatch.actors.weights import WeightBoard
from superbatch.checks import bank_limit
from superbatch.clock import Clock
from superbatch.config import Config
from superbatch.devices import pick_device
from superbatch.distributed import world
from superbatch.learner import Learner
from superbatch.problems import problem_of
from superbatch.references import AnyReference, Reference
from superbatch.seeds import derived_seed
from superbatch.sources import plain
from superbatch.sources.duplicates import without_duplicates
from superbatch.sources.stream import Batches
from superbatch.types import Role


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
    return RemoteActors(
        transport_of(config, trained, reference, step),
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
) -> Transport:
    """What starts actors and talks to them, with the weights after ``step`` published."""
    settings = config.actors
    # A reference that was trained for this run is one that is given, to its actors.
    checkpoint = reference.facts.get("checkpoint") if reference else None
    given = config.changed(reference=checkpoint) if checkpoint else config
    weights = weights_of({role: trained[role] for role in published_roles(config)})
    if settings.kind == "ray":
        return cluster_of(given, step, weights)
    device = pick_device(settings.device or config.device)
    return Processes(
        partial(actor_of, given, str(device), world()),
        WeightBoard(step, weights, device=shared_device(weights, device)),
        threads=settings.threads,
        cores=settings.cores,
        # CUDA does not work in a process that was forked, whatever the one it was forked from did.
        method="spawn" if device.type == "cuda" else "forkserver",
    )


def cluster_of(config: Config, step: int, weights: Weights) -> Transport:
    """Actors of a Ray cluster, on whose hosts there may be other devices than here."""
    from superbatch.actors.membership import Demands  # needs the extra [ray]
    from superbatch.actors.ray import Cluster

    settings = config.ray
    device = config.actors.device or ("cuda" if settings.gpus else "cpu")
    return Cluster(
        partial(actor_of, config, device, world()),
        step,
        weights,
        demands=Demands(settings.cpus, settings.gpus, settings.resource),
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


def actor_of(config: Config, device: str, place: tuple[int, int]) -> Actor:
    """One actor of the run of ``config``, wherever it is; its reference must be there already.

    It scores what is the part of the learner's rank, ``place`` (rank, ranks), of each super-batch.
    """
    torch.manual_seed(derived_seed(config.seed, "global"))
    where = torch.device(device)
    problem = problem_of(config)
    view = build.view_of(config) if config.score_view == "same" else plain
    stream = build.stream_of(config, problem, config.select.super_batch_size, view, place)
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
