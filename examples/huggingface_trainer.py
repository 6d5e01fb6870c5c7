"""Selection in Hugging Face's Trainer. python examples/huggingface_trainer.py."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from superbatch import Selector
from superbatch.integrations.huggingface import SelectingTrainer


def vit(width: int) -> ViTForImageClassification:
    """One that sees digits of 8 x 8."""
    config = ViTConfig(
        hidden_size=width, intermediate_size=width, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, num_channels=1, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config)


def losses(model, batch) -> torch.Tensor:
    """Of each row of the collated batch; both small models are asked."""
    logits = model(pixel_values=batch["pixel_values"]).logits
    return functional.cross_entropy(logits, batch["labels"], reduction="none")


def main(folder: str = "huggingface_out", **settings) -> dict:
    """Train a reference on other rows, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(found.target)
    rows = [{"pixel_values": i, "labels": y} for i, y in zip(images, labels, strict=True)]
    arguments = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=64, logging_steps=5,
        learning_rate=3e-3, report_to=[], **settings,
    )  # fmt: skip

    reference = vit(16)
    Trainer(reference, arguments, train_dataset=rows[:500]).train()
    selector = Selector(online=vit(16), reference=reference, task=losses, filter_ratio=0.5)
    SelectingTrainer(vit(64), arguments, train_dataset=rows[500:], selector=selector).train()
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
