"""What ``superbatch evaluate`` runs; imports torch, so it is loaded once the flags are good."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from superbatch.checkpoint import load_weights
from superbatch.config import Config
from superbatch.devices import pick_device
from superbatch.errors import ConfigError
from superbatch.evaluation import (
    evaluate_linear_probe,
    evaluate_zero_shot,
    labelled_batches,
    read_prompts,
    zero_shot_head,
)
from superbatch.models.exchange import read_open_clip
from superbatch.models.two_tower import build_two_tower
from superbatch.problems import problem_of
from superbatch.problems.classification import ImageClassification
from superbatch.problems.weights import is_open_clip, load_checked, weights_path
from superbatch.sources.open import holds_labels
from superbatch.sources.tokens import VOCABULARY, tokenized


def task_of_checkpoint(checkpoint: str, config: Config) -> Config:
    """``config`` with the task, and what decides the inputs, as the checkpoint learned them."""
    if is_open_clip(checkpoint):
        towers = read_open_clip(checkpoint)
        sizes = towers.sizes
        return config.changed(
            task="image_text",
            data={"context": sizes["context"], "image_size": sizes["image_size"]},
            contrastive={"loss": "softmax" if towers.logit_bias is None else "sigmoid"},
            models={"learner": checkpoint},
        )
    _, about = load_weights(weights_path(checkpoint))
    task = about.get("task", "classification")
    if task == "text":
        models = {"learner": about["model"]}
        return config.changed(task=task, data={"context": about["context"]}, models=models)
    if task == "classification":
        return config
    return config.changed(
        task="image_text",
        data={"context": about["context"], "image_size": about["image_size"]},
        contrastive={"loss": about["loss"]},
        models={"learner": about["model"]},
    )


def refuse_labels(checkpoint: str, config: Config, way_out: str) -> None:
    """Raise ``ConfigError`` with the ``way_out`` where a model of pairs is to be shown labels."""
    path = config.data.path
    if config.task == "image_text" and holds_labels(path):
        raise ConfigError(
            f"{checkpoint} learned images with captions, which come from tar shards, and {path} "
            f"has images with labels; {way_out}"
        )


def retrieved(checkpoint: str, config: Config) -> dict[str, Any]:
    """Evaluated as a run evaluates: accuracies of labels, or recalls of pairs."""
    problem = problem_of(config)
    device = pick_device(config.device)
    found = problem.evaluate(problem.load(checkpoint, "learner").to(device), device)
    numbers = dict(found.summary)
    if config.task != "image_text":
        numbers["top1"] = numbers.pop("accuracy")
        numbers["worst_class"] = numbers.pop("worst_class_accuracy")
    return numbers | {"examples": found.examples}


def labelled(
    checkpoint: str, config: Config, prompts: Path | None, *, probe: bool
) -> dict[str, Any]:
    """A model of pairs on images with labels: by prompts, and by a linear probe.

    The probe is fit on --data.path without --data.evaluation-fraction of it, which both are
    measured on; or both are measured on --data.eval-path.
    """
    device = pick_device(config.device)
    model = two_tower(checkpoint, config).to(device)
    data = ImageClassification.open(config.changed(task="classification"))
    found: dict[str, Any] = {"examples": len(data.evaluation_rows)}
    bf16 = config.optimise.bf16
    if prompts is not None:
        named = read_prompts(prompts).for_classes(data.class_names)
        tokenizer = partial(tokenized, context=config.data.context)
        head = zero_shot_head(
            model, tokenizer, named.names, named.templates, device=device, bf16=bf16
        )
        result = evaluate_zero_shot(
            model, head, data.evaluation_batches(), device=device, bf16=bf16
        )
        found["zero_shot_top1"], found["zero_shot_top5"] = result.top1, result.top5
    if probe:
        fit = labelled_batches(data.examples, data.rows)
        fitted = evaluate_linear_probe(
            model, fit, data.evaluation_batches(), device=device, bf16=bf16
        )
        found["linear_probe_top1"] = fitted.top1
    return found


def two_tower(checkpoint: str, config: Config) -> nn.Module:
    """The model of pairs in ``checkpoint``, for inputs as ``config`` says."""

    def built(name: str) -> nn.Module:
        assert config.data.image_size is not None  # task_of_checkpoint has set it
        return build_two_tower(
            name,
            image_size=config.data.image_size,
            context=config.data.context,
            vocabulary=VOCABULARY,
            sigmoid=config.contrastive.loss == "sigmoid",
            seed=0,
        )

    if is_open_clip(checkpoint):
        return built(checkpoint)
    return load_checked(checkpoint, {"model": config.models.learner}, {}, built)
