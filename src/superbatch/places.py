"""Where a run may be: settings of actors, ranks and hosts that cannot work together."""

import os
from importlib.util import find_spec

from superbatch.config import Config, Ranks
from superbatch.errors import ConfigError
from superbatch.roles import learner_scores, uses_reference


def check_actors(config: Config) -> None:
    """Where super-batches are scored."""
    settings = config.actors
    made = config.reference_training.data
    if settings.kind != "inline" and uses_reference(config) and made in ("past", "halves"):
        raise ConfigError(
            f"--reference-training.data {made} is a reference that only the learner's process has, "
            f"and --actors.kind {settings.kind} scores elsewhere; take inline"
        )
    check_ahead(config)
    if settings.count_max is not None and settings.count_max < settings.count:
        raise ConfigError(
            f"--actors.count-max {settings.count_max} is fewer than --actors.count "
            f"{settings.count}, which there are from the beginning; give more, or leave it out"
        )
    if settings.kind == "ray":
        refuse_without_ray()
    if settings.kind == "ray" and settings.cores:
        raise ConfigError(
            "--actors.cores are those of this host, and --actors.kind ray scores on any; take "
            "--ray.cpus, or --actors.kind process"
        )
    if config.ray.resource and settings.kind != "ray":
        raise ConfigError(
            f"--ray.resource {config.ray.resource} is of a Ray cluster and --actors.kind is "
            f"{settings.kind}; add --actors.kind ray"
        )
    if settings.cores and not hasattr(os, "sched_setaffinity"):
        raise ConfigError("--actors.cores needs Linux; leave it out")
    count = os.cpu_count() or 1
    if beyond := [core for core in settings.cores if not 0 <= core < count]:
        raise ConfigError(
            f"--actors.cores names core {beyond[0]} and this machine has {count}, from 0; name "
            "some of those, or leave it out"
        )


def without_effect(config: Config) -> list[str]:
    """Settings that are given and change nothing, each in a sentence with the way out."""
    count = config.actors.count
    if config.actors.kind != "inline" or count == 1:
        return []
    return [
        f"--actors.count {count} has no effect, since --actors.kind inline scores in the learner's "
        "process; add --actors.kind process"
    ]


def check_ahead(config: Config) -> None:
    """A reference that learns alongside, elsewhere."""
    ahead = config.reference_training.ahead
    if ahead is None:
        return
    if config.reference_training.data != "alongside" or not uses_reference(config):
        raise ConfigError(
            f"--reference-training.ahead {ahead} is of a reference that learns alongside the "
            f"learner, and recipe {config.recipe} has none; leave it out, or take classact_online"
        )
    if ahead and config.actors.kind == "inline":
        raise ConfigError(
            f"--reference-training.ahead {ahead} lets the reference learn in a process of its own, "
            "and with --actors.kind inline there is one process; add --actors.kind process, or "
            "leave it out"
        )


def check_launcher(config: Config) -> None:
    """Who starts ranks, and what each takes up."""
    ranks, address = config.ranks, config.ray.address
    if ranks.launcher != "ray":
        if address and config.actors.kind != "ray":
            raise ConfigError(
                f"--ray.address {address} is of a Ray cluster and --actors.kind is "
                f"{config.actors.kind}; add --actors.kind ray, or --ranks.launcher ray"
            )
        for name in ("count", "cpus", "gpus", "resource", "restarts"):
            value = getattr(ranks, name)
            if value != Ranks.model_fields[name].default:
                raise ConfigError(
                    f"--ranks.{name} {value} is of ranks that Ray Train starts; add "
                    "--ranks.launcher ray (torchrun has flags of its own)"
                )
        return
    refuse_without_ray("--ranks.launcher ray", "pandas")  # which Ray Train needs
    if config.device.startswith("cuda") and not ranks.gpus:
        raise ConfigError(
            f"--device {config.device} needs a GPU for each rank and --ranks.gpus is 0; give "
            "--ranks.gpus 1"
        )
    check_ranks(config, ranks.count)


def refuse_without_ray(flag: str = "--actors.kind ray", *besides: str) -> None:
    """Raise ``ConfigError`` where Ray, or what ``flag`` needs besides, is not installed."""
    missing = [name for name in ("ray", *besides) if find_spec(name) is None]
    if missing:
        name = missing[0].capitalize() if missing[0] == "ray" else missing[0]
        raise ConfigError(f"{flag} needs {name}: pip install 'superbatch[ray]'")


def check_ranks(config: Config, ranks: int) -> None:
    """What ``ranks`` learners share, and what shards cannot do."""
    select = config.select
    sizes = {
        "--select.super-batch-size": select.super_batch_size,
        "--select.sub-batch-size": select.sub_batch_size,
    }
    for flag, value in sizes.items():
        if value % ranks:
            below = value // ranks * ranks
            near = f"{below} or {below + ranks}" if below else str(ranks)
            raise ConfigError(
                f"{flag} is {value} over all ranks, and {ranks} ranks cannot have equal parts of "
                f"it; make it {near}"
            )
    chunk = select.sub_batch_size // ranks
    if config.ranks.selection == "local" and select.joint and chunk % select.chunks:
        raise ConfigError(
            f"with --ranks.selection local each of {ranks} ranks chooses {chunk} pairs in "
            f"--select.chunks ({select.chunks}) equal parts and they do not divide them; give "
            "other chunks, or take global"
        )
    if ranks > 1 and config.actors.kind != "inline" and config.data.deduplicate:
        raise ConfigError(
            f"--data.deduplicate looks at whole super-batches, and with --actors.kind "
            f"{config.actors.kind} each of {ranks} ranks has its part scored elsewhere; take inline"
        )
    if ranks > 1 and config.reference_training.ahead:
        raise ConfigError(
            f"--reference-training.ahead {config.reference_training.ahead} lets one process learn "
            f"the reference's batches, and {ranks} ranks learn each its part of them in their own; "
            "leave it out"
        )
    check_shards(config)


def check_shards(config: Config) -> None:
    """What a learner in shards cannot do, since no rank has it whole."""
    criterion = config.select.criterion
    past = config.reference_training.data == "past" and uses_reference(config)
    impossible = {
        "--reference-training.data past keeps a second one whole": learner_scores(config) and past,
        f"criterion {criterion} takes it apart": criterion == "grad_norm_full",
        f"--actors.kind {config.actors.kind} sends it whole to who scores": learner_scores(config)
        and config.actors.kind != "inline",
        "--contrastive.score-patch resizes whole weights": config.contrastive.score_patch
        is not None,
    }
    for reason, applies in impossible.items():
        if applies and config.ranks.kind == "fsdp":
            raise ConfigError(
                f"--ranks.kind fsdp keeps the learner in shards and {reason}; take ddp"
            )
