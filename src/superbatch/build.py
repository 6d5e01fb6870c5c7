"""From configuration to objects: what is the same for every problem."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import distributed, nn

from superbatch.actors.scorers import JointScorer, LossScorer, Scorer
from superbatch.bank import Bank, MemoryBank, ScoreAgain
from superbatch.checks import bank_capacity, bank_limit
from superbatch.config import Config
from superbatch.criterion import CRITERIA, Criterion
from superbatch.distributed import world
from superbatch.errors import ConfigError
from superbatch.flops import Prices
from superbatch.joint import JointBank
from superbatch.learner import Learner, Optimisation, ThroughModel, warmup_cosine
from superbatch.models.flexi import AtPatch, MixedResolution
from superbatch.orders import batch_starts, order_rows, read_order
from superbatch.own_references import Halves, Past
from superbatch.parted import PartedBank
from superbatch.problems import Problem
from superbatch.references import AnyReference, Reference
from superbatch.seeds import derived_seed, generator
from superbatch.sharding import is_sharded, shard
from superbatch.sources import Stream, augmentation, plain
from superbatch.sources.ordered import OrderedStream
from superbatch.sources.stream import Batches
from superbatch.types import Role, View


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


def criterion_of(config: Config) -> Criterion:
    """The criterion by its name."""
    return CRITERIA[config.select.criterion]


def bank_of(
    config: Config,
    score_again: ScoreAgain | None = None,
    device: torch.device | str = "cpu",
) -> Bank:
    """The memory bank of all ranks, or one for each rank's part where they select locally.

    ``score_again`` scores what became stale, if the configuration says so.
    """
    part = partial(part_bank_of, config, score_again, device)
    if config.ranks.selection == "global" or config.data.order is not None:
        return part(0, 1)
    return PartedBank(
        part,
        parts=world()[1],
        super_batch_size=config.select.super_batch_size,
    )


def part_bank_of(
    config: Config,
    score_again: ScoreAgain | None,
    device: torch.device | str,
    part: int,
    parts: int,
) -> Bank:
    """The memory bank of a part, or the one that chooses pairs together."""
    select = config.select
    draws = generator(config.seed, "selection", *([str(part)] if part else []))
    if select.joint:
        return JointBank(
            criterion_of(config).weights,
            loss=config.contrastive.loss,
            chunks=select.chunks,
            first=select.first_chunk,
            temperature=select.temperature,
            generator=draws,
        )
    by_arrival = select.bank_examples is None and select.bank_removal == "oldest"
    return MemoryBank(
        bank_capacity(select, parts),
        generator=draws,
        super_batches=select.bank_super_batches if by_arrival else None,
        temperature=select.temperature,
        max_times_sampled=select.max_times_sampled,
        removal=select.bank_removal,
        limit=bank_limit(select, parts),
        max_staleness=select.max_staleness,
        score_again=score_again if select.when_stale == "rescore" else None,
        keep_examples=select.keep_examples,
        importance_exponent=select.importance_exponent,
        device=device,
    )


def reference_of(
    config: Config,
    problem: Problem,
    trained: Mapping[Role, Learner],
    device: torch.device,
    scored: View,
) -> AnyReference | None:
    """The reference that the criterion weighs, where it does not learn in the loop.

    ``scored`` is the view that is scored.
    """
    roles = criterion_of(config).roles
    if "reference" not in roles - trained.keys():
        return None
    made = config.reference_training.data
    if made == "past":
        role: Role = "online" if "online" in roles else "learner"
        return Past(config, role, trained[role])
    if made == "halves":
        return Halves(config, problem, device)
    return Reference(config, problem, device, scored)


def scorer_of(
    config: Config,
    problem: Problem,
    trained: Mapping[Role, Learner],
    reference: AnyReference | None,
) -> Scorer:
    """What turns a super-batch into scores."""
    task = problem.task
    # A task on pairs is the only one that can be asked for a joint choice (config.check).
    function: Any = partial(criterion_of(config).measure.of, task)
    if config.select.joint:
        function = task.embeddings  # type: ignore[attr-defined]
    through = coarse(config)
    sources: dict[Role, Any] = {
        role: learner.scored(function, through) for role, learner in trained.items()
    }
    if reference is not None:
        sources["reference"] = reference.scored(function, through)
    if config.select.joint:
        return JointScorer(criterion_of(config), sources, config.contrastive.loss)
    return LossScorer(criterion_of(config), sources)


def coarse(config: Config) -> ThroughModel:
    """How a model is seen when it scores: at the coarser patch where there is one."""
    patch = config.contrastive.score_patch
    return partial(AtPatch, patch=patch) if patch else itself


def mixed(config: Config) -> ThroughModel:
    """How a model is seen when it learns: half of the pairs at the coarser patch, if any."""
    patch = config.contrastive.score_patch
    return partial(MixedResolution, patch=patch) if patch else itself


def itself(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model


def prices_of(
    config: Config,
    problem: Problem,
    trained: Mapping[Role, Learner],
    reference: AnyReference | None,
) -> dict[Role, Prices]:
    """What one example of each work of each role costs, in FLOPs of a forward pass.

    Raises ``ConfigError`` where the criterion cannot ask a model what it is to ask.
    """
    # What is in shards cannot be looked at without running it: its like is priced.
    models: dict[Role, nn.Module] = {
        role: problem.model(role) if is_sharded(learner.model) else learner.model
        for role, learner in trained.items()
    }
    criterion = criterion_of(config)
    passes = criterion.measure.forwards
    if reference is not None and reference.model_to_price is not None:
        models["reference"] = reference.model_to_price
    for role in criterion.roles & models.keys():
        criterion.measure.require(problem.task, models[role])
    return {
        role: Prices(
            forward=problem.forward_flops(model),
            score=problem.forward_flops(coarse(config)(model)) * passes,
            learn=problem.forward_flops(mixed(config)(model)),
        )
        for role, model in models.items()
    }


def learning_roles(config: Config) -> list[Role]:
    """The models that learn in the loop, in the order in which they do."""
    scoring = criterion_of(config).roles
    roles: list[Role] = ["learner"]
    if "online" in scoring:
        roles.append("online")
    if "reference" in scoring and config.reference_training.data == "alongside":
        roles.append("reference")
    return roles


def learning_alone(config: Config) -> list[Role]:
    """Those of them that learn from batches of their own."""
    return [role for role in learning_roles(config) if role == "reference"]


def learner_of(config: Config, role: Role, problem: Problem, device: torch.device) -> Learner:
    """A model that learns, with the schedule that ends where the run ends."""
    settings = config.optimise
    peak = settings.learning_rate
    if role == "reference":
        peak *= config.reference_training.learning_rate_ratio
    optimisation = Optimisation(
        schedule=warmup_cosine(
            peak=peak, warmup=round(settings.warmup_fraction * config.steps), steps=config.steps
        ),
        weight_decay=settings.weight_decay,
        betas=(0.9, settings.beta2),
        clip_norm=settings.clip_norm,
        micro_batch_size=settings.micro_batch_size,
        bf16=settings.bf16,
        ema_decay=settings.ema_decay if role == "learner" else 0.0,
        compiled=settings.compile,
    )
    model = problem.model(role).to(device)
    if role == "learner" and config.ranks.kind == "fsdp" and distributed.is_initialized():
        shard(model, device)
    return Learner(model, problem.task, optimisation, through=mixed(config))


def environment(command: list[str]) -> dict[str, Any]:
    """What a run depended on, for its folder."""
    import platform
    import subprocess
    from importlib.metadata import distributions

    import timm
    import torchvision

    import superbatch

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(superbatch.__file__).parent,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "git_commit": commit.stdout.strip() or None,
        "superbatch": superbatch.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        # what models of texts come from, where it is installed; importing it takes seconds
        **{dist.name: dist.version for dist in distributions(name="transformers")},
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": world()[1],
    }
