"""Selection in timm's training task. python examples/timm_task.py."""

from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from torch.utils.data import DataLoader, TensorDataset, random_split

from superbatch import Selector
from superbatch.integrations.timm import SelectingTask
from superbatch.tasks import Classification


def vit(width: int) -> torch.nn.Module:
    """One that sees digits of 8 x 8."""
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=width, depth=2, num_heads=2
    )


def fit(task, rows, folder: str) -> None:
    """Two epochs, as timm's script trains and saves."""
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="adamw", lr=3e-3)
    saver = timm.utils.CheckpointSaver(None, optimizer, task=task, checkpoint_dir=folder)
    for epoch in range(2):
        task.train()
        for images, labels in DataLoader(rows, batch_size=64, shuffle=True):
            loss = task(images, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        saver.save_checkpoint(epoch)  # timm.task.resume_task_checkpoint resumes the selector too


def main(folder: str = "timm_out") -> dict:
    """Train a reference on other rows, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    held_out, train = random_split(TensorDataset(images, torch.tensor(found.target)), [0.3, 0.7])

    Path(folder).mkdir(exist_ok=True)
    reference = vit(16)
    fit(ClassificationTask(reference), held_out, folder)
    selector = Selector(
        online=vit(16), reference=reference, task=Classification(), filter_ratio=0.5
    )
    fit(SelectingTask(ClassificationTask(vit(64)), selector), train, folder)
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
