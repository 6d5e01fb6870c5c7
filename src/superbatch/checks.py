"""Settings that cannot work together, refused before anything is opened or written."""

import os

from superbatch.config import Config, uses_reference
from superbatch.errors import ConfigError


def check(config: Config) -> None:
    """Refuse settings that cannot work together, with a ``ConfigError``."""
    check_selection(config)
    check_data(config)
    check_reference(config)
    check_pairs(config)
    check_actors(config)


def check_selection(config: Config) -> None:
    """Sizes, and how the sub-batch is chosen."""
    select = config.select
    if select.sub_batch_size > select.super_batch_size:
        raise ConfigError(
            f"--select.sub-batch-size ({select.sub_batch_size}) is larger than "
            f"--select.super-batch-size ({select.super_batch_size}); "
            "the sub-batch is chosen from the super-batch"
        )
    if select.joint and select.criterion == "uniform":
        raise ConfigError(
            f"--select.joint chooses by losses and criterion uniform of recipe {config.recipe} has "
            "none; take a recipe such as jest"
        )
    if select.joint and select.sub_batch_size % select.chunks:
        below = select.sub_batch_size // select.chunks * select.chunks
        way_out = f"the nearest sizes are {below} and {below + select.chunks}"
        if below == 0:
            way_out = f"give fewer chunks, such as {select.sub_batch_size}"
        raise ConfigError(
            f"--select.sub-batch-size ({select.sub_batch_size}) is drawn in --select.chunks "
            f"({select.chunks}) equal parts and they do not divide it; {way_out}"
        )
    if select.joint and (select.bank_super_batches > 1 or select.max_times_sampled > 1):
        raise ConfigError(
            "joint selection chooses within one super-batch, whose embeddings are fresh; "
            f"--select.bank-super-batches is {select.bank_super_batches} and "
            f"--select.max-times-sampled {select.max_times_sampled}: both must be 1"
        )


def check_data(config: Config) -> None:
    """What is held out, made noisy, or put in order."""
    data = config.data
    held_out = config.reference_training.data == "holdout" or data.part == "holdout"
    if held_out and data.holdout_fraction == 0 and not (config.reference or config.reference_data):
        raise ConfigError(
            "a held-out reference needs data that the learner never sees, and "
            "--data.holdout-fraction is 0; give it a share, such as 0.5"
        )
    if data.label_noise and data.truth:
        raise ConfigError(
            f"--data.label-noise {data.label_noise} makes its own truth, and "
            f"--data.truth {data.truth} names another; leave one out"
        )
    select = config.select
    chooses = select.criterion != "uniform" or select.bank_super_batches > 1
    if data.order and (chooses or select.super_batch_size != select.sub_batch_size):
        raise ConfigError(
            f"--data.order {data.order} has chosen already and recipe {config.recipe} would "
            "choose from it again; take recipe uniform (of pairs: clip or siglip)"
        )


def check_reference(config: Config) -> None:
    """Where the reference comes from."""
    given = {"--reference": config.reference, "--reference-data": config.reference_data}
    if config.reference_missing and not config.reference:
        raise ConfigError(
            f"--reference-missing {config.reference_missing} scores what a table lacks, and no "
            "table is given; name it with --reference"
        )
    for flag, value in given.items():
        if value and not uses_reference(config):
            raise ConfigError(
                f"criterion {config.select.criterion} scores without a reference and cannot use "
                f"{flag} {value}; leave it out, or take a recipe such as classact"
            )
        if value and config.reference_training.data == "alongside":
            raise ConfigError(
                f"recipe {config.recipe} trains its reference alongside the learner and cannot "
                f"use {flag} {value}; recipe classact can"
            )
    if all(given.values()):
        raise ConfigError(
            f"--reference {config.reference} is trained already and --reference-data "
            f"{config.reference_data} would train one; leave one out"
        )


def check_pairs(config: Config) -> None:
    """What only one of the tasks can do."""
    pairs = config.task == "image_text"
    only_pairs = {
        "--select.joint": config.select.joint,
        "--data.deduplicate": config.data.deduplicate,
        "--data.caption-noise": config.data.caption_noise,
        "--contrastive.score-patch": config.contrastive.score_patch,
    }
    only_labels = {
        "--data.label-noise": config.data.label_noise,
        "--data.truth": config.data.truth,
        "--optimise.label-smoothing": config.optimise.label_smoothing,
    }
    for flag, value in (only_labels if pairs else only_pairs).items():
        if value:
            learns = "pairs of image and text" if pairs else "labels"
            wanted = "labels, such as classact" if pairs else "pairs, such as active_clip"
            raise ConfigError(
                f"recipe {config.recipe} learns {learns} and cannot use {flag} ({value}); "
                f"it is for recipes on {wanted}"
            )


def check_actors(config: Config) -> None:
    """Where super-batches are scored."""
    settings = config.actors
    if settings.cores and not hasattr(os, "sched_setaffinity"):
        raise ConfigError("--actors.cores needs Linux; leave it out")
    count = os.cpu_count() or 1
    if beyond := [core for core in settings.cores if not 0 <= core < count]:
        raise ConfigError(
            f"--actors.cores names core {beyond[0]} and this machine has {count}, from 0; name "
            "some of those, or leave it out"
        )
