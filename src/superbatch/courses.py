"""Where the reference of Online-ClassAct learns: in the learner's process, or in one of its own."""

from collections.abc import Callable
from functools import partial

import torch

from superbatch import build, feed
from superbatch.actors.actor import Setup, Weights
from superbatch.actors.alone import Beside, Course, InTheLoop, Student, from_answer, studying
from superbatch.actors.crew import Crew, Words
from superbatch.actors.news import Studied, Transport
from superbatch.actors.weights import Shelf
from superbatch.clock import Clock
from superbatch.config import Config
from superbatch.distributed import world
from superbatch.enlist import cluster_of, device_elsewhere, processes_of, shared_device
from superbatch.learner import Learner
from superbatch.problems import problem_of
from superbatch.seeds import derived_seed
from superbatch.sources.stream import Batches
from superbatch.types import Role, to_device


AHEAD = 2
"""Updates that a reference elsewhere may be ahead: one that it makes, and one so that neither it
nor the learner waits for the other when a step takes longer than usual."""


def ahead_of(config: Config) -> int:
    """Updates that a model which learns alone may be ahead of the learner; 0: none, in the loop."""
    if config.actors.kind == "inline" or world()[1] > 1:
        return 0
    ahead = config.reference_training.ahead
    return AHEAD if ahead is None else ahead


def course_of(
    config: Config, role: Role, learner: Learner, stream: Batches, step: int, clock: Clock
) -> Course:
    """How ``learner`` goes on learning alone after ``step``, from the batches of ``stream``."""
    if ahead_of(config):
        return beside(config, role, learner, stream, step, clock)
    device = next(learner.model.parameters()).device
    batches = (to_device(batch, device) for batch in stream)
    return InTheLoop(learner, batches, role=role, seed=own_seed(config, role), clock=clock)


def beside(
    config: Config, role: Role, learner: Learner, stream: Batches, step: int, clock: Clock
) -> Beside:
    """The same in a process, or on a host, of its own."""
    state, inputs = {role: learner.numbers()}, feed.inputs_of(stream)
    transport, receive, publish = line_to_student(config, role, state, step, inputs)
    crew: Crew[Studied] = Crew(
        transport,
        Words(
            f"made the {role}'s update",
            "a smaller --reference-training.batch-multiple",
            stream.ids_of,
        ),
        numbers=range(step + 1, config.steps + 1),
        ahead=ahead_of(config),
        timeout=config.actors.timeout,
    )
    return Beside(crew, learner, receive, publish, stream, role=role, clock=clock)


def line_to_student(
    config: Config, role: Role, state: Weights, step: int, inputs: feed.Inputs
) -> tuple[Transport, Callable[[Studied, Weights], None], Callable[[int, Weights], None]]:
    """What starts a student and talks to it, brings the states that it makes, and says which was
    taken over; the first is ``state``, after ``step``. ``inputs`` are what the learner reads.
    """
    device = device_elsewhere(config)
    if config.actors.kind == "ray":
        setup: Setup = partial(student_of, config, role, str(device), inputs, carries=True)
        # On a Ray of this host alone there is no place to be found for one more.
        cpus = 0.0 if config.ray.address is None else None
        cluster = cluster_of(config, setup, step, state, cpus=cpus)
        return cluster, from_answer, cluster.publish
    # Places for the state that the loop has and those ahead of it: none is written that is needed.
    shelf = Shelf(ahead_of(config) + 1, state, shared_device(state, device))
    shelf.write(step, state)
    setup = partial(student_of, config, role, str(device), inputs)
    processes = processes_of(config, partial(studying, setup, shelf), device)
    return processes, partial(from_shelf, shelf), nothing_to_publish


def from_shelf(shelf: Shelf, studied: Studied, into: Weights) -> None:
    """Write the state that ``studied`` is about into ``into``."""
    shelf.read(studied.number, into)


def nothing_to_publish(number: int, state: Weights) -> None:
    """Whoever needs it finds it on the shelf."""


def student_of(
    config: Config, role: Role, device: str, inputs: feed.Inputs, *, carries: bool = False
) -> Student:
    """Who makes the updates of ``role`` in the run of ``config``, wherever it is.

    Raises ``DataError`` where it does not read the learner's ``inputs``.
    """
    torch.manual_seed(derived_seed(config.seed, "global"))
    where = torch.device(device)
    problem = problem_of(config)
    stream = feed.reference_stream_of(config, problem)
    feed.refuse_unlike(feed.inputs_of(stream), inputs, "an actor", "the learner")
    return Student(
        build.learner_of(config, role, problem, where),
        stream.batch_of,
        role=role,
        seed=own_seed(config, role),
        device=where,
        carries=carries,
    )


def own_seed(config: Config, role: Role) -> int:
    """Of the random numbers that only this model's updates use; each rank has others."""
    rank, _ = world()
    return derived_seed(config.seed, "alone", role, *([str(rank)] if rank else []))
