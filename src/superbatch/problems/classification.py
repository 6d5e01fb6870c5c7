"""Classification: which label does an image have? ClassAct and its baselines learn it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from superbatch.config import Config, Data
from superbatch.errors import DataError
from superbatch.flops import forward_flops
from superbatch.models.build import build_model
from superbatch.problems import Evaluation
from superbatch.problems.images import check_images, refuse_shards
from superbatch.problems.labels import evaluated, parts_of, refuse_reordered
from superbatch.problems.weights import load_checked
from superbatch.seeds import derived_seed
from superbatch.sources import Examples, open_examples
from superbatch.sources.catalogue import SAME_CLASSES, moved_class
from superbatch.sources.examples import Progress
from superbatch.sources.noise import with_label_noise
from superbatch.sources.reading import batches_of
from superbatch.tasks import Classification
from superbatch.types import Batch, Role


@dataclass(frozen=True)
class ImageClassification:
    """Images with labels. See `superbatch.problems.Problem`."""

    config: Config
    examples: Examples
    rows: np.ndarray
    evaluation: Examples
    evaluation_rows: np.ndarray

    @staticmethod
    def open(config: Config, progress: Progress | None = None) -> "ImageClassification":
        """Open what the configuration names and split it. Errors are those of ``sources``."""
        data = config.data
        examples, evaluation = open_sets(data, progress)
        rows, evaluation_rows = parts_of(data, examples, evaluation)
        noisy = examples
        if data.label_noise:
            noise_seed = derived_seed(data.seed, "label noise")
            noisy = with_label_noise(examples, data.label_noise, seed=noise_seed)
        return ImageClassification(
            config,
            examples=noisy,
            rows=rows,
            evaluation=evaluation or examples,
            evaluation_rows=evaluation_rows,
        )

    @property
    def task(self) -> Classification:
        """Cross-entropy; label smoothing touches the learn loss only."""
        return Classification(label_smoothing=self.config.optimise.label_smoothing)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        return self.examples.class_names

    @property
    def skipped(self) -> int:
        """Broken images of a set that is only evaluated on."""
        return len(self.evaluation.skipped) if self.config.data.eval_path else 0

    @property
    def left_out(self) -> Mapping[str, int]:
        """Nothing: but for broken images, data with labels is used whole or refused."""
        return {}

    @property
    def fitting(self) -> Mapping[str, Any]:
        """The size that images are resized to."""
        return {"image_size": self.examples.image_shape[-1]}

    def model(self, role: Role) -> nn.Module:
        """See `Problem.model`."""
        return self._build(getattr(self.config.models, role), role)

    def load(self, path: str, role: Role) -> nn.Module:
        """See `Problem.load`. A header-less file must be of the configured model."""
        words = {"classes": "classes", "image_size": "pixels a side", "channels": "channels"}
        refuse_reordered(path, self.class_names)
        return load_checked(path, self.about(role), words, lambda name: self._build(name, role))

    def about(self, role: Role) -> dict[str, Any]:
        """See `Problem.about`."""
        channels, height, _ = self.examples.image_shape
        return {
            "task": self.config.task,
            "model": getattr(self.config.models, role),
            "image_size": height,
            "channels": channels,
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "recipe": self.config.recipe,
            "steps": self.config.steps,
            "seed": self.config.seed,
            "part": self.config.data.part,
        }

    def forward_flops(self, model: nn.Module) -> int:
        """See `Problem.forward_flops`."""
        return forward_flops(model, torch.empty(1, *self.examples.image_shape, device="meta"))

    def evaluate(self, model: nn.Module, device: torch.device) -> Evaluation:
        """Top-1, top-5 and every class."""
        batches = self.evaluation_batches()
        return evaluated(self.config, self.task, self.class_names, model, batches, device)

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every example to evaluate on, once, in order."""
        return batches_of(self.evaluation, self.evaluation_rows, self.config.record.evaluate_batch)

    def _build(self, name: str, role: Role) -> nn.Module:
        channels, height, _ = self.examples.image_shape
        return build_model(
            name,
            image_size=height,
            channels=channels,
            classes=len(self.class_names),
            seed=derived_seed(self.config.seed, "weights", role),
            dropout=self.config.models.dropout,
        )


def open_sets(data: Data, progress: Progress | None) -> tuple[Examples, Examples | None]:
    """What is trained on, and the set that is only evaluated on where there is one."""
    refuse_shards(data.path)
    examples = open_examples(
        data.path,
        label=data.label,
        image=data.image,
        truth=data.truth,
        image_size=data.image_size,
        memory_gb=data.memory_gb,
        progress=progress,
    )
    check_images(data, examples.image_shape)
    if data.eval_path is None:
        return examples, None
    if (data.eval_path, data.eval_label) == (data.path, data.label):
        return examples, examples
    refuse_shards(data.eval_path)
    evaluation = open_examples(
        data.eval_path,
        label=data.eval_label,
        image=data.image,
        image_size=data.image_size or examples.image_shape[-1],
        memory_gb=data.memory_gb,
    )
    check_same_kind(examples, evaluation, data.path, data.eval_path)
    return examples, evaluation


def check_same_kind(examples: Examples, evaluation: Examples, path: str, eval_path: str) -> None:
    """Refuse to evaluate on images or classes other than those that are learned."""
    if examples.image_shape != evaluation.image_shape:
        raise DataError(
            f"images of {path} are {examples.image_shape} and of {eval_path} "
            f"{evaluation.image_shape} (channels, height, width); set --data.image-size"
        )
    moved = moved_class(examples.class_names, evaluation.class_names)
    if moved is not None:
        name, here, there = moved
        raise DataError(
            f"class {name!r} is number {here} in {path} and {there} in {eval_path}; {SAME_CLASSES}"
        )
    if evaluation.labels.max() >= len(examples.class_names):
        raise DataError(
            f"{eval_path} has labels up to {evaluation.labels.max()} and {path} only "
            f"{len(examples.class_names)} classes; name the right columns with --data.label "
            "and --data.eval-label"
        )
