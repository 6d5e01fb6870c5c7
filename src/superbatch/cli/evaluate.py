"""``superbatch evaluate``: what a checkpoint is worth on any data of its kind."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from superbatch.cli.output import console, say
from superbatch.cli.settings import JsonSwitch, Offered, Settings, Switch, leading_words, parse
from superbatch.config import Config, Contrastive, Data, Models, Optimise, Record
from superbatch.errors import ConfigError


OFFERED: Offered = {
    Config: ("task", "device", "data", "models", "contrastive", "optimise", "record"),
    Data: (
        *("path", "label", "image", "text", "vocabulary", "context", "image_size", "memory_gb"),
        *("eval_path", "eval_label", "evaluation_fraction", "seed"),
    ),
    # What a weights file that others wrote does not say.
    Models: ("learner",),
    Contrastive: ("loss",),
    Optimise: ("bf16",),
    Record: ("evaluate_batch",),
}
"""The settings that decide what an evaluation finds; the others are of training."""


class Evaluate(BaseModel):
    """superbatch evaluate CKPT --data.path DATA [flags]: on all of DATA, or on --data.eval-path.

    A checkpoint knows what it learned. One of labels gives accuracies (of texts, give
    --data.vocabulary too); one of pairs gives retrieval
    or, with --zero-shot or --linear-probe and DATA with labels, accuracies. A linear probe is fit
    on DATA: without --data.eval-path, all is measured on the --data.evaluation-fraction left out.
    """

    settings: Settings = Config()
    zero_shot: Path | None = None
    """A JSON file with class names and prompt templates: classify by similarity to the prompts."""
    linear_probe: Switch = False
    """Classify by a logistic regression on image embeddings, fit on a part of the data."""
    json_: JsonSwitch = False
    """Print the result as JSON instead of a table."""


def run(argv: Sequence[str]) -> int:
    """Evaluate the checkpoint (weights, or a finished run) that ``argv`` names."""
    words, flags = leading_words(argv)
    arguments = parse(Evaluate, Evaluate(), flags, "evaluate CKPT", offered=OFFERED)
    if len(words) != 1:
        raise ConfigError(f"evaluate needs one checkpoint and was given {len(words)}")
    from superbatch.cli.evaluating import labelled, refuse_labels, retrieved, task_of_checkpoint

    checkpoint = words[0]
    by_labels = arguments.zero_shot is not None or arguments.linear_probe
    learned = task_of_checkpoint(checkpoint, arguments.settings)
    if by_labels and learned.task != "image_text":
        raise ConfigError(
            f"{checkpoint} learned labels; --zero-shot and --linear-probe are for checkpoints of "
            "image-text pairs, evaluate this one without them"
        )
    if not by_labels:
        refuse_labels(
            checkpoint, learned, "give such shards, or add --zero-shot PROMPTS or --linear-probe"
        )
    if not arguments.linear_probe:
        learned = whole_data(learned)
    if by_labels:
        numbers = labelled(checkpoint, learned, arguments.zero_shot, probe=arguments.linear_probe)
    else:
        numbers = retrieved(checkpoint, learned)
    if arguments.json_:
        print(json.dumps(numbers, indent=2))
    else:
        show(numbers)
    return 0


def whole_data(config: Config) -> Config:
    """Evaluate on all of ``--data.path`` unless another set is named."""
    if config.data.eval_path is not None:
        return config
    return config.changed(data={"eval_path": config.data.path, "eval_label": config.data.label})


def show(numbers: Mapping[str, Any]) -> None:
    """The numbers in a line or two; of classes a table, the worst first."""
    from rich.markup import escape
    from rich.table import Table

    said = {
        "top1": "top-1",
        "top5": "top-5",
        "worst_class": "worst class",
        "matthews": "Matthews correlation",
        "zero_shot_top1": "zero-shot top-1",
        "zero_shot_top5": "zero-shot top-5",
        "linear_probe_top1": "linear probe top-1",
        "mean_recall": "mean recall",
    }
    said |= {
        f"{way}_r{k}": f"{way.replace('_', ' ')} R@{k}"
        for way in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    }
    shown = [f"{word} {numbers[name]:.4f}" for name, word in said.items() if name in numbers]
    say("   ".join(shown) + f"   of {numbers['examples']} examples")
    if "per_class" not in numbers:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    shares = [
        (name, share)
        for name, share in zip(numbers["class_names"], numbers["per_class"], strict=True)
        if share is not None
    ]
    for name, share in sorted(shares, key=lambda pair: pair[1]):
        table.add_row(escape(name), f"{share:.4f}")
    console().print(table)
