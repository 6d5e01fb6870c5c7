"""From configuration to objects: what is the same for every problem."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import distributed, nn

from superbatch.actors.scorers import JointScorer, LossScorer, Scorer
from superbatch.bank import Bank, MemoryBank, ScoreAgain
from superbatch.checks import bank_capacity, bank_limit
from superbatch.config import Config
from superbatch.criterion import CRITERIA, Criterion
from superbatch.distributed import world
from superbatch.flops import Prices
from superbatch.joint import JointBank
from superbatch.learner import Learner, Optimisation, ThroughModel, warmup_cosine
from superbatch.models.flexi import AtPatch, MixedResolution
from superbatch.own_references import Halves, Past
from superbatch.parted import PartedBank
from superbatch.problems import Problem
from superbatch.references import AnyReference, Reference
from superbatch.seeds import generator
from superbatch.selection import check_temperature
from superbatch.sharding import is_sharded, shard
from superbatch.types import Role, View


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
    check_temperature(select.temperature)
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
