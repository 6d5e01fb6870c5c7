"""What every problem with labels shares, whatever is labelled."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from superbatch.checkpoint import load_weights
from superbatch.config import Config, Data
from superbatch.errors import CheckpointError
from superbatch.evaluation import evaluate_classification
from superbatch.problems import Evaluation
from superbatch.problems.images import refuse_no_evaluation
from superbatch.problems.listed import only_listed
from superbatch.problems.weights import weights_path
from superbatch.seeds import derived_seed
from superbatch.sources import Readable, split_rows
from superbatch.sources.catalogue import SAME_CLASSES, moved_class
from superbatch.sources.splits import in_first_half
from superbatch.tasks import Classification
from superbatch.types import Batch


def parts_of(
    data: Data, examples: Readable, evaluation: Readable | None
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " m"]]:
    """The rows of ``examples`` to train on, and those to evaluate on: of ``evaluation``, if any.

    Raises ``ConfigError`` and ``DataError`` where one of them would be empty, or a list does not
    fit.
    """
    splits = split_rows(
        len(examples),
        evaluation_fraction=0.0 if evaluation else data.evaluation_fraction,
        holdout_fraction=data.holdout_fraction,
        seed=derived_seed(data.seed, "splits"),
    )
    rows = splits.holdout if data.part == "holdout" else splits.pool
    if data.part in ("first_half", "second_half"):
        first = in_first_half(examples.ids[rows], seed=derived_seed(data.seed, "halves"))
        rows = rows[first == (data.part == "first_half")]
    refuse_no_evaluation(data, len(evaluation or splits.evaluation))
    evaluation_rows = np.arange(len(evaluation)) if evaluation else splits.evaluation
    return only_listed(data, examples, rows), evaluation_rows


def evaluated(
    config: Config,
    task: Classification,
    class_names: tuple[str, ...],
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
) -> Evaluation:
    """What ``model`` says right of ``batches``: in all, and of each class."""
    result = evaluate_classification(
        model,
        batches,
        classes=len(class_names),
        task=task,
        device=device,
        bf16=config.optimise.bf16,
    )
    summary = {
        "accuracy": result.top1,
        "top5": result.top5,
        "worst_class_accuracy": result.worst_class,
        "per_class": list(result.per_class),
        "class_names": list(class_names),
    }
    if result.matthews is not None:
        summary["matthews"] = result.matthews
    return Evaluation(result.examples, result.metrics(), summary)


def refuse_reordered(path: str, class_names: tuple[str, ...]) -> None:
    """Raise ``CheckpointError`` where ``path`` learned a class under another number."""
    _, about = load_weights(weights_path(path))
    moved = moved_class(class_names, about.get("class_names", class_names))
    if moved is not None:
        name, here, there = moved
        raise CheckpointError(
            f"{path} learned {name!r} as class {there} and in the data it is {here}; {SAME_CLASSES}"
        )
