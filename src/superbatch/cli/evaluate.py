"""``superbatch evaluate``: what a checkpoint is worth on any data of its kind."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from superbatch.cli.output import console
from superbatch.cli.settings import JsonSwitch, Settings, leading_words, parse
from superbatch.config import Config
from superbatch.errors import ConfigError


class Evaluate(BaseModel):
    """superbatch evaluate CKPT --data.path DATA [flags]: on all of DATA, or on --data.eval-path."""

    settings: Settings = Config()
    json_: JsonSwitch = False
    """Print the result as JSON instead of a table."""


def run(argv: Sequence[str]) -> int:
    """Evaluate the checkpoint (weights, or a finished run) that ``argv`` names."""
    words, flags = leading_words(argv)
    arguments = parse(Evaluate, Evaluate(), flags, "evaluate CKPT")
    if len(words) != 1:
        raise ConfigError(f"evaluate needs one checkpoint and was given {len(words)}")
    from superbatch import build
    from superbatch.evaluation import evaluate_classification

    config = whole_data(arguments.settings)
    data = build.load_data(config)
    device = build.pick_device(config.device)
    result = evaluate_classification(
        build.load_model(words[0], config, "learner", data).to(device),
        data.evaluation_batches(config.record.evaluate_batch),
        classes=len(data.class_names),
        device=device,
        bf16=config.optimise.bf16,
    )
    numbers = {
        "top1": result.top1,
        "top5": result.top5,
        "per_class": list(result.per_class),
        "worst_class": result.worst_class,
        "examples": result.examples,
    }
    if arguments.json_:
        print(json.dumps(numbers, indent=2))
    else:
        show(numbers, data.class_names)
    return 0


def whole_data(config: Config) -> Config:
    """Evaluate on all of ``--data.path`` unless another set is named."""
    if config.data.eval_path is not None:
        return config
    return config.changed(data={"eval_path": config.data.path, "eval_label": config.data.label})


def show(numbers: dict[str, Any], class_names: Sequence[str]) -> None:
    """Accuracies as a table, the worst class first."""
    from rich.table import Table

    out = console()
    out.print(
        f"top-1 {numbers['top1']:.4f}   top-5 {numbers['top5']:.4f}   "
        f"worst class {numbers['worst_class']:.4f}   of {numbers['examples']} examples",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    shares = [
        (name, share)
        for name, share in zip(class_names, numbers["per_class"], strict=True)
        if share is not None
    ]
    for name, share in sorted(shares, key=lambda pair: pair[1]):
        table.add_row(name, f"{share:.4f}")
    out.print(table)
