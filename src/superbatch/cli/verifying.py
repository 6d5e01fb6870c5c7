"""What ``superbatch table verify`` runs; imports torch, so it is loaded once the flags are good."""

from functools import partial
from pathlib import Path
from typing import Any

from superbatch.cli.evaluating import task_of_checkpoint
from superbatch.cli.table import Verify
from superbatch.config import Config
from superbatch.devices import pick_device
from superbatch.errors import CheckpointError
from superbatch.measures import MEASURES, loss
from superbatch.passes import traceless
from superbatch.problems import Problem, problem_of
from superbatch.problems.weights import weights_hash
from superbatch.tables.check import check_data, recompute, verify_file, verify_weights
from superbatch.tables.file import TableFile, place_of
from superbatch.tables.losses import LossTable


def verified(arguments: Verify, path: Path) -> dict[str, Any]:
    """Read all of the table, hold it against the data, and compute a sample again.

    Raises ``DataError`` for whatever is wrong with it.
    """
    path, named = place_of(path)
    file, column = TableFile(path), arguments.column or named
    if column is not None or arguments.model is not None:
        columns = [file.column(column)]
    else:
        columns = list(file.columns)
    verify_file(file)
    config = config_of(arguments, file, columns[0])
    problem = problem_of(config)
    found: dict[str, Any] = {}
    for column in columns:
        table = LossTable.open(path, column)
        check_data(table, problem.examples)
        found[column] = recomputed(arguments, config, problem, table)
    missing = table.lacks(problem.examples.ids)
    return {"table": str(path), "rows": len(file), "missing": missing, "columns": found}


def config_of(arguments: Verify, file: TableFile, column: str) -> Config:
    """The settings that the table was made with."""
    scorer = file.provenance.columns[column]
    pairs = scorer.loss != "cross_entropy" and scorer.loss not in MEASURES
    texts = file.provenance.image_size is None
    config = Config().changed(
        device=arguments.device,
        optimise={"bf16": file.provenance.precision == "bf16"},
        data=arguments.data.model_dump()
        | {
            "eval_path": arguments.data.path if arguments.data.caption_noise else None,
            "holdout_fraction": 0.0,
            "image_size": arguments.data.image_size or file.provenance.image_size,
        },
    )
    if pairs:
        config = config.changed(task="image_text", contrastive={"act": scorer.loss})
    elif texts:
        config = config.changed(task="text")
    else:
        return config
    if scorer.loss == "dot":
        config = config.changed(contrastive={"score_scale": scorer.scale})
    checkpoint = arguments.model or scorer.checkpoint
    try:
        return task_of_checkpoint(checkpoint, config)
    except CheckpointError:
        return config


def recomputed(
    arguments: Verify, config: Config, problem: Problem, table: LossTable
) -> dict[str, Any]:
    """A sample of ``table`` computed again, if its model is there; what was found, in words too."""
    checkpoint = arguments.model or table.scorer.checkpoint
    try:
        weights = weights_hash(checkpoint)
    except CheckpointError as error:
        if arguments.model is not None:
            raise
        return {"recomputed": 0, "said": f"no loss was computed again: {error}; give --model"}
    if arguments.model is None and weights != table.scorer.weights:
        said = f"no loss was computed again: {checkpoint} has other weights now; give --model"
        return {"recomputed": 0, "said": said}
    verify_weights(table, weights)
    device = pick_device(config.device)
    model = problem.load(checkpoint, "reference").to(device).requires_grad_(False)
    measured = partial(MEASURES.get(table.scorer.loss, loss).of, problem.task)
    count, largest = recompute(
        table,
        problem.examples,
        traceless(model, measured, bf16=config.optimise.bf16),
        sample=arguments.sample,
        batch_size=arguments.batch_size,
        device=device,
        tolerance=arguments.tolerance,
        seed=arguments.seed,
    )
    return {
        "recomputed": count,
        "largest_difference": largest,
        "said": f"{count} losses computed again, the largest difference is {largest:.2g}",
    }
