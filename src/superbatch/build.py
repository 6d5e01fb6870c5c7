"""From configuration to objects: the only module that knows both."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from superbatch.checkpoint import load_weights
from superbatch.config import Config, Data
from superbatch.criterion import CRITERIA, Criterion
from superbatch.errors import CheckpointError, ConfigError, DataError
from superbatch.learner import Learner, Optimisation, warmup_cosine
from superbatch.models.build import build_model
from superbatch.seeds import derived_seed
from superbatch.sources import (
    Examples,
    Stream,
    augmentation,
    open_examples,
    plain,
    split_rows,
)
from superbatch.sources.noise import with_label_noise
from superbatch.tasks import Classification
from superbatch.types import Batch, Role, View


@dataclass(frozen=True)
class LoadedData:
    """The examples, which rows of them are trained on, and what is evaluated on."""

    examples: Examples
    rows: np.ndarray
    evaluation: Examples
    evaluation_rows: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        return self.examples.class_names

    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every example to evaluate on, once, in order."""
        for start in range(0, len(self.evaluation_rows), batch_size):
            yield self.evaluation.read(self.evaluation_rows[start : start + batch_size])


def load_data(config: Config, progress: Callable[[int, int], None] | None = None) -> LoadedData:
    """Open what the configuration names and split it. Errors are those of ``sources``."""
    data = config.data
    examples = open_examples(
        data.path,
        label=data.label,
        image=data.image,
        truth=data.truth,
        image_size=data.image_size,
        memory_gb=data.memory_gb,
        progress=progress,
    )
    check_images(data, examples)
    evaluation: Examples | None = None
    if data.eval_path is not None:
        evaluation = open_examples(
            data.eval_path,
            label=data.eval_label,
            image=data.image,
            image_size=data.image_size or examples.image_shape[-1],
            memory_gb=data.memory_gb,
        )
        check_same_kind(examples, evaluation, data.path, data.eval_path)
    splits = split_rows(
        len(examples),
        evaluation_fraction=0.0 if evaluation else data.evaluation_fraction,
        holdout_fraction=data.holdout_fraction,
        seed=derived_seed(data.seed, "splits"),
    )
    if evaluation is None and len(splits.evaluation) == 0:
        raise ConfigError(
            "there is nothing to evaluate on: --data.evaluation-fraction is "
            f"{data.evaluation_fraction} and no --data.eval-path is given"
        )
    noisy = (
        with_label_noise(examples, data.label_noise, seed=derived_seed(data.seed, "label noise"))
        if data.label_noise
        else examples
    )
    return LoadedData(
        examples=noisy,
        rows=splits.holdout if data.part == "holdout" else splits.pool,
        evaluation=evaluation or examples,
        evaluation_rows=np.arange(len(evaluation)) if evaluation else splits.evaluation,
    )


def check_images(data: Data, examples: Examples) -> None:
    """Refuse images that the models or the augmentation cannot take."""
    _, height, width = examples.image_shape
    if height != width:
        raise DataError(
            f"images of {data.path} are {height}x{width} pixels and models take square ones; "
            "set --data.image-size to resize them"
        )
    if data.crop_padding >= height:
        raise ConfigError(
            f"--data.crop-padding is {data.crop_padding} and images are {height}x{width} pixels; "
            "reflected padding must be smaller than the image"
        )


def check_same_kind(examples: Examples, evaluation: Examples, path: str, eval_path: str) -> None:
    """Refuse to evaluate on images or classes other than those that are learned."""
    if examples.image_shape != evaluation.image_shape:
        raise DataError(
            f"images of {path} are {examples.image_shape} and of {eval_path} "
            f"{evaluation.image_shape} (channels, height, width); set --data.image-size"
        )
    if evaluation.labels.max() >= len(examples.class_names):
        raise DataError(
            f"{eval_path} has labels up to {evaluation.labels.max()} and {path} only "
            f"{len(examples.class_names)} classes; name the right columns with --data.label "
            "and --data.eval-label"
        )


def pick_device(name: str) -> torch.device:
    """The device that ``--device`` names; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device {name} was asked for and this machine has no usable GPU")
        torch.zeros(1, device=device).tolist()  # torch knows more devices than are here
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"--device {name} cannot be used here; cpu always can ({reason})"
        ) from error
    return device


def view_of(config: Config) -> View:
    """The augmentation that is learned from, as a pure function of each draw."""
    data = config.data
    if not (data.flip or data.crop_padding or data.rand_augment):
        return plain
    return augmentation(
        flip=data.flip,
        crop_padding=data.crop_padding,
        rand_augment=data.rand_augment,
        seed=derived_seed(config.seed, "views"),
    )


def stream_of(config: Config, data: LoadedData, batch_size: int, name: str, view: View) -> Stream:
    """An endless uniform stream of the training rows; ``name`` keeps streams independent."""
    return Stream(
        data.examples,
        data.rows,
        batch_size=batch_size,
        seed=derived_seed(config.seed, name),
        view=view,
        workers=config.data.workers,
    )


def criterion_of(config: Config) -> Criterion:
    """The criterion by its name."""
    return CRITERIA[config.select.criterion]


def model_of(config: Config, role: Role, data: LoadedData) -> nn.Module:
    """A new model for ``role``, its weights decided by the run's seed and the role."""
    channels, height, _ = data.examples.image_shape
    return build_model(
        getattr(config.models, role),
        image_size=height,
        channels=channels,
        classes=len(data.class_names),
        seed=derived_seed(config.seed, "weights", role),
    )


def task_of(config: Config) -> Classification:
    """The task; label smoothing touches the learn loss only."""
    return Classification(label_smoothing=config.optimise.label_smoothing)


def learner_of(config: Config, role: Role, data: LoadedData, device: torch.device) -> Learner:
    """A model that learns, with the schedule that ends where the run ends."""
    settings = config.optimise
    peak = settings.learning_rate
    if role == "reference":
        peak *= config.reference_training.learning_rate_ratio
    optimisation = Optimisation(
        schedule=warmup_cosine(
            peak=peak, warmup=round(settings.warmup_fraction * config.steps), steps=config.steps
        ),
        weight_decay=settings.weight_decay,
        betas=(0.9, settings.beta2),
        clip_norm=settings.clip_norm,
        micro_batch_size=settings.micro_batch_size,
        bf16=settings.bf16,
        ema_decay=settings.ema_decay if role == "learner" else 0.0,
        compiled=settings.compile,
    )
    return Learner(model_of(config, role, data).to(device), task_of(config), optimisation)


def about_model(config: Config, role: Role, data: LoadedData) -> dict[str, Any]:
    """What a weights file says of its model, so that a misfit is refused with both values."""
    channels, height, _ = data.examples.image_shape
    return {
        "model": getattr(config.models, role),
        "image_size": height,
        "channels": channels,
        "classes": len(data.class_names),
        "class_names": list(data.class_names),
        "recipe": config.recipe,
        "steps": config.steps,
        "seed": config.seed,
        "part": config.data.part,
    }


def weights_path(path: str) -> Path:
    """The weights that ``path`` means: a .safetensors file, or those of a finished run."""
    given = Path(path)
    found = given / "checkpoints" / "learner.safetensors" if given.is_dir() else given
    if not found.is_file():
        reason = "no finished run is there" if given.is_dir() else "there is no such file"
        raise CheckpointError(f"cannot read weights from {path}: {reason}")
    return found


def load_model(path: str, config: Config, role: Role, data: LoadedData) -> nn.Module:
    """The model whose weights ``path`` holds. Raises ``CheckpointError`` if it is of other data.

    The file's header says which model it is; a file without one must be of the configured model.
    """
    weights, about = load_weights(weights_path(path))
    here = about_model(config, role, data)
    for name, words in (
        ("classes", "classes"),
        ("image_size", "pixels a side"),
        ("channels", "channels"),
    ):
        if about and about[name] != here[name]:
            raise CheckpointError(
                f"{path} is a model of {about[name]} {words} and the data has {here[name]}; "
                "give a checkpoint that was trained on data of the same kind"
            )
    if about:
        config = config.changed(models={role: about["model"]})
    model = model_of(config, role, data)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {getattr(config.models, role)}: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error
    return model


def environment(command: list[str]) -> dict[str, Any]:
    """What a run depended on, for its folder."""
    import platform
    import subprocess

    import timm
    import torchvision

    import superbatch

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(superbatch.__file__).parent,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "git_commit": commit.stdout.strip() or None,
        "superbatch": superbatch.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
