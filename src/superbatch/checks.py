"""Settings that cannot work together, refused before anything is opened or written."""

from collections.abc import Mapping

from superbatch.config import Config, Data, Select
from superbatch.errors import ConfigError
from superbatch.limits import Limit, Lockstep, SamplesPerInsert
from superbatch.places import check_actors, check_launcher
from superbatch.roles import uses_reference


OF_LOSSES = ("uniform", "hard", "hard_learner", "easy", "learnability", "rho_loss")
"""The criteria that are sums of losses and nothing else (a test holds them to it: the criteria
themselves need torch, and nothing that answers ``--help`` may)."""
WITHIN = ("selective_backprop", "infobatch")
"""Those by which a score says where an example stands among the others (likewise held to it)."""


def check(config: Config) -> None:
    """Refuse settings that cannot work together, with a ``ConfigError``."""
    check_selection(config)
    check_joint(config)
    check_importance(config)
    check_bank(config)
    check_data(config)
    check_reference(config)
    check_task(config)
    check_actors(config)
    check_launcher(config)


def check_selection(config: Config) -> None:
    """Sizes, and by what the sub-batch is chosen."""
    select = config.select
    if select.sub_batch_size > select.super_batch_size:
        raise ConfigError(
            f"--select.sub-batch-size ({select.sub_batch_size}) is larger than "
            f"--select.super-batch-size ({select.super_batch_size}); "
            "the sub-batch is chosen from the super-batch"
        )
    if config.optimise.compile and select.criterion == "grad_norm_full":
        raise ConfigError(
            f"criterion {select.criterion} takes models apart by examples and --optimise.compile "
            "puts them together; leave one out (grad_norm, of the last layer, can be compiled)"
        )


def check_joint(config: Config) -> None:
    """What pairs can be chosen together by, from what, and in how many parts."""
    select = config.select
    if not select.joint:
        return
    if select.criterion not in OF_LOSSES:
        raise ConfigError(
            f"--select.joint chooses by losses of pairs and criterion {select.criterion} by "
            "something else; take a recipe such as jest"
        )
    if select.criterion == "uniform":
        raise ConfigError(
            f"--select.joint chooses by losses and criterion uniform of recipe {config.recipe} has "
            "none; take a recipe such as jest"
        )
    if select.sub_batch_size % select.chunks:
        below = select.sub_batch_size // select.chunks * select.chunks
        way_out = f"the nearest sizes are {below} and {below + select.chunks}"
        if below == 0:
            way_out = f"give fewer chunks, such as {select.sub_batch_size}"
        raise ConfigError(
            f"--select.sub-batch-size ({select.sub_batch_size}) is drawn in --select.chunks "
            f"({select.chunks}) equal parts and they do not divide it; {way_out}"
        )
    if select.bank_super_batches > 1 or select.max_times_sampled > 1:
        raise ConfigError(
            "joint selection chooses within one super-batch, whose embeddings are fresh; "
            f"--select.bank-super-batches is {select.bank_super_batches} and "
            f"--select.max-times-sampled {select.max_times_sampled}: both must be 1"
        )
    if flags := replay_flags(select):
        raise ConfigError(
            "joint selection chooses within one super-batch, whose embeddings are fresh, and then "
            f"forgets it; leave out {', '.join(flags)}"
        )


def check_importance(config: Config) -> None:
    """Whether there can be importance weights."""
    select = config.select
    if select.importance_exponent == 0:
        return
    if config.task == "image_text":
        raise ConfigError(
            f"--select.importance-exponent {select.importance_exponent} weighs the losses of "
            f"single examples and in recipe {config.recipe} a pair's loss depends on the others in "
            "its batch; leave it at 0"
        )
    if select.temperature == 0:
        raise ConfigError(
            f"--select.importance-exponent {select.importance_exponent} weighs by how likely an "
            "example was to be drawn, and --select.temperature 0 takes the highest scores for "
            "certain; give a temperature above 0"
        )


def replay_flags(select: Select) -> list[str]:
    """The flags given that only mean something where examples wait in the bank."""
    names = (
        "bank_examples",
        "bank_removal",
        "bank_minimum",
        "samples_per_insert",
        "max_staleness",
        "keep_examples",
    )
    return [
        f"--select.{name.replace('_', '-')}"
        for name in names
        if getattr(select, name) != Select.model_fields[name].default
    ]


def check_bank(config: Config) -> None:
    """What waits in the memory bank, and for how long."""
    select = config.select
    one = select.bank_super_batches == 1 and select.bank_examples is None
    if select.bank_examples is not None and select.bank_super_batches > 1:
        raise ConfigError(
            f"--select.bank-examples {select.bank_examples} and --select.bank-super-batches "
            f"{select.bank_super_batches} both give the bank's capacity; leave one out"
        )
    if select.bank_examples is not None and select.bank_examples < select.super_batch_size:
        raise ConfigError(
            f"--select.bank-examples ({select.bank_examples}) must be at least "
            f"--select.super-batch-size ({select.super_batch_size}): a super-batch arrives whole"
        )
    if select.bank_removal == "lowest" and one:
        raise ConfigError(
            "--select.bank-removal lowest chooses what makes room among earlier super-batches, and "
            "a bank of one super-batch keeps none; give --select.bank-super-batches or "
            "--select.bank-examples"
        )
    if select.bank_error_buffer is not None and select.samples_per_insert is None:
        raise ConfigError(
            f"--select.bank-error-buffer {select.bank_error_buffer:g} says how far draws may be off"
            " from --select.samples-per-insert, which is not given; give it, or leave this out"
        )
    if select.when_stale == "rescore" and select.max_staleness is None:
        raise ConfigError(
            "--select.when-stale rescore needs to know what is stale; give --select.max-staleness"
        )
    if select.when_stale == "rescore" and select.criterion in WITHIN:
        raise ConfigError(
            f"by --select.criterion {select.criterion} an example's score depends on the others of "
            "its super-batch, and those that are scored again are not among them; take "
            "--select.when-stale drop"
        )
    if select.when_stale == "rescore" and config.contrastive.act == "contrastive":
        raise ConfigError(
            "with --contrastive.act contrastive a pair's loss depends on its super-batch, and pairs"
            " that are scored again are not in theirs; take --select.when-stale drop"
        )
    bank_limit(select).check(
        capacity=bank_capacity(select), max_times_sampled=select.max_times_sampled
    )


def bank_capacity(select: Select, parts: int = 1) -> int:
    """Examples that the memory bank may hold, or that of one of ``parts``."""
    return (select.bank_examples or select.super_batch_size * select.bank_super_batches) // parts


def bank_limit(select: Select, parts: int = 1) -> Limit:
    """How many super-batches arrive for each sub-batch, in the bank or in one of ``parts``.

    Raises ``ConfigError`` for a deadlock.
    """
    minimum = -(-select.bank_minimum // parts)
    if select.samples_per_insert is None:
        return Lockstep(minimum)
    buffer = select.bank_error_buffer
    return SamplesPerInsert(
        select.samples_per_insert,
        super_batch_size=select.super_batch_size // parts,
        sub_batch_size=select.sub_batch_size // parts,
        minimum=minimum,
        error_buffer=None if buffer is None else buffer / parts,
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
    replays = select.bank_super_batches > 1 or replay_flags(select)
    chooses = select.criterion != "uniform" or replays
    if data.order and (chooses or select.super_batch_size != select.sub_batch_size):
        raise ConfigError(
            f"--data.order {data.order} has chosen already and recipe {config.recipe} would "
            "choose from it again; take recipe uniform (of pairs: clip or siglip)"
        )


_OWN = {
    "alongside": "trains its reference alongside the learner",
    "halves": "trains two references on halves of the data",
    "past": "takes a model's own past as its reference",
}


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
        if value and config.reference_training.data in _OWN:
            raise ConfigError(
                f"recipe {config.recipe} {_OWN[config.reference_training.data]} and cannot "
                f"use {flag} {value}; recipe classact can"
            )
    training, made = config.reference_training, config.reference_training.data
    if training.learning_rate is not None and made == "alongside":
        raise ConfigError(
            f"--reference-training.learning-rate {training.learning_rate:g} is for a reference "
            "that is trained beforehand, and this one learns alongside; its rate is the learner's "
            "times --reference-training.learning-rate-ratio"
        )
    if made == "past" and uses_reference(config) and config.select.criterion == "easy":
        raise ConfigError(
            "--reference-training.data past is the past of a model that scores, and criterion easy "
            "scores with the reference alone; take criterion learnability or rho_loss"
        )
    if made == "halves" and (config.task == "image_text" or config.select.joint):
        raise ConfigError(
            "--reference-training.data halves scores each example with one of two references, and "
            f"recipe {config.recipe} learns pairs, which are scored together; take holdout"
        )
    if all(given.values()):
        raise ConfigError(
            f"--reference {config.reference} is trained already and --reference-data "
            f"{config.reference_data} would train one; leave one out"
        )


LEARNS: Mapping[str, str] = {
    "classification": "labels of images",
    "image_text": "pairs of image and text",
    "text": "labels of texts",
}
"""What each task learns."""

WANTED: Mapping[str, str] = {
    "classification": "recipes on labels, such as classact",
    "image_text": "recipes on pairs, such as active_clip",
    "text": "--task text",
}
"""What each task is asked for with."""


def check_task(config: Config) -> None:
    """What not every task can do."""
    data = config.data
    half = data.part if data.part.endswith("_half") else ""
    only: list[tuple[str, object, tuple[str, ...]]] = [
        ("--select.joint", config.select.joint, ("image_text",)),
        ("--data.deduplicate", data.deduplicate, ("image_text",)),
        ("--data.caption-noise", data.caption_noise, ("image_text",)),
        ("--data.part", half, ("classification", "text")),
        ("--contrastive.score-patch", config.contrastive.score_patch, ("image_text",)),
        ("--data.label-noise", data.label_noise, ("classification", "text")),
        ("--data.truth", data.truth, ("classification", "text")),
        ("--optimise.label-smoothing", config.optimise.label_smoothing, ("classification", "text")),
        ("--models.dropout", config.models.dropout, ("classification", "text")),
        ("--data.image-size", data.image_size, ("classification", "image_text")),
        ("--data.flip", data.flip, ("classification", "image_text")),
        ("--data.crop-padding", data.crop_padding, ("classification", "image_text")),
        ("--data.rand-augment", data.rand_augment, ("classification", "image_text")),
        ("--data.vocabulary", data.vocabulary, ("text",)),
    ]
    for flag, value, tasks in only:
        if value and config.task not in tasks:
            raise ConfigError(
                f"recipe {config.recipe} learns {LEARNS[config.task]} and cannot use {flag} "
                f"({value}); it is for {WANTED[tasks[0]]}"
            )
    if config.task == "text":
        check_vocabulary(data)


def check_vocabulary(data: Data) -> str:
    """The file with the vocabulary; ``ConfigError`` where none is named."""
    if data.vocabulary is None:
        raise ConfigError(
            "--task text cuts texts into the pieces of a vocabulary and --data.vocabulary names "
            "none; give BERT's vocab.txt, a file with one word-piece a line"
        )
    return data.vocabulary
