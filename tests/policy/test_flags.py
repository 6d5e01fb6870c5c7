"""Flags are frozen: scripts rely on them. A new one is added here on purpose, or not at all."""

import dataclasses
import importlib

import pytest

from superbatch.cli.evaluate import OFFERED
from superbatch.cli.settings import ALL_BUT_RECIPE
from superbatch.config import Config, Section


FLAGS = """
actors.cores actors.count actors.count_max actors.device actors.kind actors.max_staleness
actors.threads actors.timeout
contrastive.act contrastive.loss contrastive.score_patch contrastive.score_scale
data.caption_noise data.context data.crop_padding data.deduplicate
data.eval_label data.eval_path data.evaluation_fraction data.flip
data.holdout_fraction data.image data.image_size data.label data.label_noise data.memory_gb
data.order data.part data.path data.rand_augment data.seed data.subset data.text data.truth
data.vocabulary data.workers
device
models.dropout models.learner models.online models.reference
optimise.beta2 optimise.bf16 optimise.clip_norm optimise.compile optimise.ema_decay
optimise.label_smoothing optimise.learning_rate optimise.micro_batch_size
optimise.warmup_fraction optimise.weight_decay
out ranks.count ranks.cpus ranks.gpus ranks.kind ranks.launcher ranks.resource ranks.restarts
ranks.selection ranks.timeout_seconds
ray.address ray.cpus ray.gpus ray.resource
record.checkpoint_every record.evaluate_batch record.evaluate_every record.keep_checkpoints
record.log_every record.selection record.tensorboard
reference reference_data reference_missing reference_training.ahead
reference_training.batch_multiple reference_training.data reference_training.learning_rate
reference_training.learning_rate_ratio reference_training.past_decay reference_training.steps
score_view seed
select.bank_error_buffer select.bank_examples select.bank_minimum select.bank_removal
select.bank_super_batches select.chunks select.criterion select.first_chunk
select.importance_exponent select.joint select.keep_examples select.max_staleness
select.max_times_sampled select.samples_per_insert select.sub_batch_size
select.super_batch_size select.temperature select.when_stale
steps task
""".split()  # noqa: SIM905 - a list of fifty strings is harder to read


OF_EVALUATE = """
contrastive.loss data.context data.eval_label data.eval_path data.evaluation_fraction data.image
data.image_size data.label data.memory_gb data.path data.seed data.text data.vocabulary
device models.learner optimise.bf16 record.evaluate_batch task
""".split()  # noqa: SIM905


def flags(section: type[Section], offered, prefix: str = "") -> list[str]:
    names = []
    for name in offered.get(section, section.model_fields):
        kind = section.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            names += flags(kind, offered, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def test_the_flags_are_the_frozen_ones():
    assert sorted(flags(Config, ALL_BUT_RECIPE)) == sorted(FLAGS)


def test_evaluate_has_those_that_it_uses():
    assert sorted(flags(Config, OFFERED)) == sorted(OF_EVALUATE)


COMMANDS = {
    "train": "json_ settings",
    "compare": "baseline confirm json_ seeds settings",
    "evaluate": "json_ linear_probe settings zero_shot",
    "order": "allow_unfinished batch examples json_ kind out run steps",
    "explain": "id json_ no_data runs step top",
    "export": "out",
    "report": "allow_mixed baseline figures json_ metric out runs smooth",
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_flags_of_commands_are_the_frozen_ones(command):
    module = importlib.import_module(f"superbatch.cli.{command}")
    fields = getattr(module, command.capitalize()).model_fields
    assert " ".join(sorted(fields)) == COMMANDS[command]


def test_the_flags_of_cost_are_the_frozen_ones():
    from superbatch.cli.cost import Options

    assert " ".join(sorted(field.name for field in dataclasses.fields(Options))) == (
        "actor actor_text amortised_over beta classes image_size json learner learner_text "
        "measure online plot reference reference_batch_multiple reference_examples_ratio "
        "reference_training reuse_forward rho scorer scoring_devices speedup train_online"
    )


def test_every_flag_says_what_it_does():
    def described(section):
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from described(kind)
            else:
                yield name, field.description

    assert not [name for name, text in described(Config) if not text]
