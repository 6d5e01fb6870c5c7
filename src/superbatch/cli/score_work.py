"""What there is to score, and with what: from flags to data, models and a job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from superbatch.cli.evaluating import refuse_labels, task_of_checkpoint
from superbatch.cli.score import Score
from superbatch.config import Config
from superbatch.devices import pick_device
from superbatch.errors import ConfigError
from superbatch.measures import MEASURES
from superbatch.passes import rows_at_once, traceless
from superbatch.problems import Problem, problem_of
from superbatch.scoring import Job, blocks_of
from superbatch.tables import LossTable
from superbatch.tables.file import LOSS
from superbatch.tasks import Task
from superbatch.tasks.contrastive import Contrastive
from superbatch.types import Batch


@dataclass(frozen=True)
class Work:
    """Data to score, and the checkpoints to score it with, by column."""

    arguments: Score
    config: Config
    problem: Problem
    checkpoints: Mapping[str, str]
    broken: frozenset[int]
    """Ids of the examples that were known to be broken once the data was open."""

    @staticmethod
    def of(arguments: Score) -> "Work":
        """Open the data. Errors are those of ``sources``; ``ConfigError`` for models unlike."""
        checkpoints = columns_of(arguments.model)
        config = config_of(arguments, list(checkpoints.values()))
        problem = problem_of(config)
        # Kept as they are now: who reads on may meet others, and every process scores the same.
        return Work(arguments, config, problem, checkpoints, problem.examples.skipped)

    def models(self) -> dict[str, nn.Module]:
        """The models by column, frozen, on the device."""
        device = pick_device(self.config.device)
        loaded = {
            name: self.problem.load(path, "reference").to(device)
            for name, path in self.checkpoints.items()
        }
        return {name: model.requires_grad_(False) for name, model in loaded.items()}

    def job(self, rows: np.ndarray) -> Job:
        """What is to be done for ``rows`` of the data."""
        arguments = self.arguments
        measures = [
            measure_of(name, model, self.problem.task, arguments)
            for name, model in self.models().items()
        ]
        return Job(
            self.problem.examples,
            lambda batch: {name: x for one in measures for name, x in one(batch).items()},
            blocks_of(self.problem.examples.ids, rows, arguments.block_size),
            arguments.batch_size,
            pick_device(self.config.device),
            self.config.data.workers,
        )

    def rows(self) -> np.ndarray:
        """The rows to score: those not known to be broken that no table to append to has."""
        ids = self.problem.examples.ids
        wanted = ~np.isin(ids, np.array(sorted(self.broken), dtype=np.int64))
        if self.arguments.append is not None:
            before = LossTable.open(self.arguments.append, next(iter(self.checkpoints)))
            wanted &= ~before.has(ids)
        return np.flatnonzero(wanted)


def columns_of(models: Sequence[str]) -> dict[str, str]:
    """Checkpoints by column: ``loss`` of an only one, else ``loss/NAME``, each name once."""
    named = [named_checkpoint(model) for model in models]
    if len(named) == 1 and "=" not in models[0]:
        return {LOSS: named[0][1]}
    columns = {f"{LOSS}/{name}": path for name, path in named}
    if len(columns) < len(named):
        raise ConfigError(
            f"two models have the same name ({', '.join(name for name, _ in named)}); "
            "give each its own: --model NAME=CKPT"
        )
    return columns


def named_checkpoint(model: str) -> tuple[str, str]:
    """Name and path of ``NAME=PATH``, or of a path: the run's folder, or the file's stem."""
    name, equals, path = model.partition("=")
    if equals and "/" not in name and not Path(model).exists():
        return name, path
    place = Path(model).resolve()
    if place.parent.name == "checkpoints":
        place = place.parent.parent
    return place.name.removesuffix(".safetensors"), model


def config_of(arguments: Score, checkpoints: Sequence[str]) -> Config:
    """The settings with which the checkpoints, all of one task, see the data."""
    asked = Config().changed(
        device=arguments.device,
        contrastive=arguments.contrastive.model_dump(),
        optimise={"bf16": arguments.bf16},
        # Everything is scored as it is; what runs evaluate on is of no concern.
        data=arguments.data.model_dump() | {"eval_path": None, "holdout_fraction": 0.0},
    )
    found = {path: task_of_checkpoint(path, asked) for path in checkpoints}
    for path, learned in found.items():
        refuse_labels(path, learned, "give such shards, or a checkpoint that learned labels")
    first = next(iter(found.values()))
    for path, other in found.items():
        if (other.task, other.data, other.contrastive) != (
            first.task,
            first.data,
            first.contrastive,
        ):
            raise ConfigError(
                f"{checkpoints[0]} and {path} see the data differently (task {first.task} and "
                f"{other.task}, images of {first.data.image_size} and {other.data.image_size} "
                "pixels a side); score with one after the other, then superbatch table join"
            )
    if first.task == "image_text" and first.contrastive.act == "contrastive":
        raise ConfigError(
            "act loss 'contrastive' of a pair depends on the others in its batch and cannot be "
            "kept; take --contrastive.act dot or sigmoid_diagonal"
        )
    if arguments.embeddings and first.task != "image_text":
        raise ConfigError("--embeddings are of pairs; these checkpoints learned labels")
    if first.data.caption_noise:  # a run would refuse to evaluate on such pairs
        return first.changed(data={"eval_path": first.data.path})
    return first


def measure_of(
    column: str, model: nn.Module, task: Task, arguments: Score
) -> Callable[[Batch], dict[str, Tensor]]:
    """What is measured of a batch in ``column`` and, where they are kept, its embeddings."""
    measure = MEASURES[arguments.measure]
    measure.require(task, model)

    def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {column: measure.of(task, model, batch).float()}

    def both(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(task, Contrastive)
        found = task.embeddings(model, batch)
        scalars = [found.scale] if found.bias is None else [found.scale, found.bias]
        said = _Said(found.image, found.text, *scalars)
        suffix = column.removeprefix(LOSS)
        return losses(said, batch) | {f"image{suffix}": found.image, f"text{suffix}": found.text}

    function = both if arguments.embeddings else losses
    rows = rows_at_once(0, model)
    return traceless(model, function, micro_batch_size=rows, bf16=arguments.bf16)


class _Said(nn.Module):
    """A model that has answered already, so that a loss of its answer costs no second pass."""

    takes_bytes = True

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._outputs
