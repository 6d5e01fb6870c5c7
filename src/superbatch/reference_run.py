"""The run that trains a reference beforehand: what it is configured as, and where it is kept."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from superbatch.checkpoint import load_weights
from superbatch.config import Config
from superbatch.errors import CheckpointError, DataError, Stopped
from superbatch.problems import Problem
from superbatch.problems.weights import weights_path
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.seeds import derived_seed
from superbatch.surroundings import Status, Surroundings


TrainReference = Callable[[Config, Surroundings], dict[str, Any]]
"""Run a configuration in the folder that it names, or go on with it; its summary."""


def reference_config(config: Config, fitting: Mapping[str, Any], part: str | None = None) -> Config:
    """The run that trains the reference of ``config``: uniform, on its part of the data.

    ``part`` is that, if not the one that the configuration names, and ``fitting`` are the settings
    that make other data fit the models: see `Problem.fitting`.
    """
    training = config.reference_training
    steps = training.steps or config.steps
    uniform = "uniform"
    if config.task == "image_text":
        uniform = "clip" if config.contrastive.loss == "softmax" else "siglip"
    return recipe(uniform).changed(
        seed=derived_seed(config.seed, "reference"),
        task=config.task,
        steps=steps,
        device=config.device,
        data=reference_data(config, fitting, part or training.data),
        select={
            "super_batch_size": config.select.sub_batch_size,
            "sub_batch_size": config.select.sub_batch_size,
        },
        contrastive=config.contrastive.model_dump(),
        models={"learner": config.models.reference, "dropout": config.models.dropout},
        optimise=config.optimise.model_dump()
        | {"learning_rate": training.learning_rate or config.optimise.learning_rate},
        ranks={"timeout_seconds": config.ranks.timeout_seconds},
        record=config.record.model_dump()
        | {"selection": "none", "tensorboard": False, "evaluate_every": steps},
    )


def reference_data(config: Config, fitting: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings of the data that it learns: ``part`` of the learner's, or all of its own."""
    data = config.data.model_dump() | {"part": part, "deduplicate": False, "order": None}
    if config.reference_data is None:
        return data
    return data | {
        "path": config.reference_data,
        **fitting,
        "truth": None,
        "part": "pool",
        "holdout_fraction": 0.0,
        "label_noise": 0.0,
        "caption_noise": 0.0,
        "subset": None,
    }


def trained_reference(
    config: Config,
    problem: Problem,
    folder: RunFolder,
    around: Surroundings,
    train: TrainReference,
    part: str | None = None,
) -> dict[str, Any]:
    """Train the reference of ``config``, or find it trained: its checkpoint and what it cost.

    It learns ``part``, if not what the configuration names. It is a run of its own, in
    ``reference/`` or ``reference-PART/`` of the run folder or, shared by several runs, in
    ``around.references``; each run's ledger still counts it in full.
    """
    wanted = reference_config(config, problem.fitting, part)
    path = folder.path / (f"reference-{part}" if part else "reference")
    if around.references is not None:
        path = around.references / digest_of(wanted)

    def watch(status: Status) -> None:
        is_step = status.unit == "steps"
        around.watch(replace(status, title="reference") if is_step else status)

    inner = Surroundings(around.command, watch, around.stop)
    try:
        summary = train(wanted.changed(out=str(path)), inner)
    except Stopped as stopped:
        raise Stopped(
            f"stopped while its reference was trained; continue with "
            f"superbatch train --resume {folder.path}"
        ) from stopped
    except DataError as error:
        if config.reference_data is None:
            raise
        raise DataError(f"--reference-data {config.reference_data}: {error}") from error
    seconds = summary["seconds"]
    return {
        "checkpoint": readable(path),
        "examples_learned": summary["examples_learned"],
        "recomputed": "recompute" in summary["flops"]["by_role"]["learner"],
        "seconds": seconds["total"] - seconds["by_phase"].get("evaluation", 0.0),
        "val": summary["val"],
    }


def readable(path: Path) -> str:
    """The weights of the reference that was trained in ``path``: the run may have moved since."""
    weights = weights_path(str(path))
    try:
        load_weights(weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"the weights of the trained reference are damaged ({error}); remove {path}, and it "
            "is trained again as it was"
        ) from error
    return str(weights)


def digest_of(wanted: Config) -> str:
    """A name for a reference by all that decides it, and so not by where it is kept."""
    text = json.dumps(wanted.changed(out=None).model_dump(mode="json"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
