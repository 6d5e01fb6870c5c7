"""Selection in a plain loop that keeps checkpoints, on one process or several.

python examples/plain_pytorch.py, or torchrun --nproc-per-node 2 examples/plain_pytorch.py
"""

import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import superbatch


def digits(part: slice) -> TensorDataset:
    """Images of 8 x 8, labels and ids of a part of scikit-learn's digits."""
    found = load_digits()
    images = torch.tensor(found.images[part], dtype=torch.float32)[:, None] / 8 - 1
    return TensorDataset(images, torch.tensor(found.target[part]), torch.arange(len(images)))


def model(width: int, seed: int) -> nn.Module:
    """A small network for them."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def trained_small() -> nn.Module:
    """The reference: a small model that has learned from other digits, held out."""
    images, labels, _ = digits(slice(0, 500)).tensors
    reference = model(16, seed=2)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(reference(images), labels).backward()
        optimizer.step()
    return reference


def main(checkpoint: Path | None = None, steps: int = 40) -> list[list[int]]:
    """Train until ``steps`` in all; the ids that this call learned from, step by step."""
    learner: nn.Module = model(128, seed=0)
    if distributed.is_initialized():
        learner = DistributedDataParallel(learner)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    data = digits(slice(500, None))
    sampler = DistributedSampler(data) if distributed.is_initialized() else None
    loader = DataLoader(data, batch_size=64, sampler=sampler, drop_last=True)
    selector = superbatch.Selector(
        online=model(16, seed=1),
        reference=trained_small(),
        task=superbatch.per_example(nn.CrossEntropyLoss(), read=lambda batch: batch[:2]),
        ids=lambda batch: batch[2],
        filter_ratio=0.5,
        temperature=0.5,
    )
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        selector.load_state_dict(state["selector"])
    learned: list[list[int]] = []
    while selector.steps < steps:
        for place, super_batch in enumerate(loader):
            if place < selector.steps % len(loader) or selector.steps == steps:
                continue
            images, labels, ids = batch = selector.select(super_batch)
            optimizer.zero_grad()
            functional.cross_entropy(learner(images), labels).backward()
            optimizer.step()
            selector.learn(batch)
            learned.append(ids.tolist())
    if checkpoint is not None:
        whole = {"learner": learner, "optimizer": optimizer, "selector": selector}
        torch.save({name: one.state_dict() for name, one in whole.items()}, checkpoint)
    print(selector.metrics)
    return learned


if __name__ == "__main__":
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    main()
    if distributed.is_initialized():
        distributed.destroy_process_group()
