"""Selection in PyTorch Lightning: one callback. python examples/lightning_callback.py."""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, ReLU, Sequential, functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from superbatch import Selector
from superbatch.integrations.lightning import SelectionCallback
from superbatch.tasks import Classification


class Digits(pl.LightningModule):
    """Knows nothing of selection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = Sequential(Flatten(), Linear(64, width), ReLU(), Linear(width, 10))

    def training_step(self, batch):
        """The mean loss of the rows it is given."""
        images, labels = batch
        return functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def fit(module: Digits, rows, *callbacks: pl.Callback, **settings) -> None:
    """Two epochs."""
    loader = DataLoader(rows, batch_size=64, shuffle=True)
    trainer = pl.Trainer(max_epochs=2, callbacks=list(callbacks), logger=False, **settings)
    trainer.fit(module, loader)


def main(**settings) -> dict:
    """Train a reference on other rows, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    rows = TensorDataset(images, torch.tensor(found.target))
    held_out, train = random_split(rows, [0.3, 0.7])

    small, online, learner = Digits(16), Digits(16), Digits(128)
    fit(small, held_out, **settings)
    selector = Selector(
        online=online.model, reference=small.model, task=Classification(), filter_ratio=0.5
    )
    fit(learner, train, SelectionCallback(selector), **settings)
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
