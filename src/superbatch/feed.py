"""What a run is fed: streams of batches, and the view of them that is learned from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from superbatch.config import Config
from superbatch.distributed import gather_objects, world
from superbatch.errors import ConfigError, DataError
from superbatch.files import array_digest
from superbatch.orders import batch_starts, order_rows, read_order
from superbatch.problems import Problem
from superbatch.seeds import derived_seed
from superbatch.sources import Stream, augmentation, plain
from superbatch.sources.ordered import OrderedStream
from superbatch.sources.stream import Batches
from superbatch.types import View


def view_of(config: Config) -> View:
    """The augmentation that is learned from, as a pure function of each draw."""
    data = config.data
    if not (data.flip or data.crop_padding or data.rand_augment):
        return plain
    return augmentation(
        flip=data.flip,
        crop_padding=data.crop_padding,
        rand_augment=data.rand_augment,
        seed=derived_seed(config.seed, "views"),
    )


def scored_view_of(config: Config) -> View:
    """How a super-batch is seen when it is scored."""
    return view_of(config) if config.score_view == "same" else plain


def learn_view_of(config: Config) -> View:
    """What is left to do to scored examples before they are learned from."""
    return plain if config.score_view == "same" else view_of(config)


def stream_of(
    config: Config,
    problem: Problem,
    batch_size: int,
    view: View,
    place: tuple[int, int] | None = None,
) -> Batches:
    """The super-batches: endless and uniform, or in the order that the configuration names.

    Of each the part that falls to ``place`` (rank, ranks), if not to this process's own.
    """
    if config.data.order is None:
        return uniform_stream_of(config, problem, batch_size, "super-batches", view, place)
    order = read_order(Path(config.data.order))
    rows = order_rows(order, problem.examples, problem.rows)
    starts = batch_starts(order, config.select.sub_batch_size)
    refuse_short_order(config, len(order), starts)
    rank, ranks = place or world()
    return OrderedStream(
        problem.examples,
        rows,
        order.draws,
        starts,
        batch_size=batch_size,
        view=view,
        workers=config.data.workers,
        rank=rank,
        world=ranks,
    )


Inputs = Mapping[str, str]
"""What a run reads besides its folder: each by a digest, and called what it is."""


def inputs_of(stream: Batches) -> Inputs:
    """What ``stream`` reads, so that it is not taken for anything else."""
    return {
        "data": stream.examples.fingerprint,
        "examples to train on, or their order": array_digest(stream.rows),
    }


def refuse_unlike(inputs: Inputs, wanted: Inputs, who: str, whom: str) -> None:
    """Raise ``DataError`` unless ``who`` reads what ``whom`` does, by whose draws it goes."""
    for name in wanted:
        if inputs[name] != wanted[name]:
            raise DataError(
                f"{who} reads other data than {whom}: the {name} is {inputs[name]} and not "
                f"{wanted[name]}; every process and host must read the same files, as they were "
                "when the run began: put them back, then continue with --resume"
            )


def refuse_unlike_ranks(stream: Batches) -> None:
    """Raise ``DataError`` unless all ranks read the same; for all."""
    first, *others = gather_objects(inputs_of(stream))
    for rank, inputs in enumerate(others, start=1):
        refuse_unlike(inputs, first, f"rank {rank}", "rank 0")


def refuse_short_order(
    config: Config, length: int, starts: Int64[np.ndarray, " batches"] | None
) -> None:
    """Raise ``ConfigError`` where the run would learn from more examples than the order has.

    ``length`` is that of the order, and ``starts`` are those of its batches where it has its own.
    """
    batch = config.select.sub_batch_size
    if starts is not None and config.steps > len(starts):
        raise ConfigError(
            f"--data.order {config.data.order} is {len(starts)} steps of its run and "
            f"{config.steps} are wanted; set --steps to at most {len(starts)}, or make a longer "
            "order with superbatch order"
        )
    if starts is None and config.steps * batch > length:
        raise ConfigError(
            f"--data.order {config.data.order} has {length} examples and {config.steps} steps of "
            f"{batch} learn from {config.steps * batch}; set --steps to at most {length // batch}, "
            "or make a longer order with superbatch order"
        )


def uniform_stream_of(
    config: Config,
    problem: Problem,
    batch_size: int,
    name: str,
    view: View,
    place: tuple[int, int] | None = None,
) -> Stream:
    """An endless uniform stream of the training rows; ``name`` keeps streams independent."""
    rank, ranks = place or world()
    return Stream(
        problem.examples,
        problem.rows,
        batch_size=batch_size,
        seed=derived_seed(config.seed, name),
        view=view,
        workers=config.data.workers,
        rank=rank,
        world=ranks,
    )


def reference_stream_of(config: Config, problem: Problem) -> Stream:
    """What a reference that learns alongside the learner learns from."""
    multiple = config.reference_training.batch_multiple
    count = multiple * config.select.sub_batch_size
    return uniform_stream_of(config, problem, count, "reference batches", view_of(config))
