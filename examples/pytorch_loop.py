"""Selection in a plain loop: three lines. python examples/pytorch_loop.py."""

import torch
from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, ReLU, Sequential, functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from superbatch import Selector
from superbatch.tasks import Classification


def model(width: int) -> Sequential:
    """Of digits of 8 x 8."""
    return Sequential(Flatten(), Linear(64, width), ReLU(), Linear(width, 10))


def fit(net, rows, selector: Selector | None = None) -> None:
    """Two epochs, on chosen rows if there is a selector."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(2):
        for batch in DataLoader(rows, batch_size=64, shuffle=True):
            if selector:
                batch = selector.select(batch)
            loss = functional.cross_entropy(net(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if selector:
                selector.learn(batch)


def main() -> dict:
    """Train a reference on other rows, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    held_out, train = random_split(TensorDataset(images, torch.tensor(found.target)), [0.3, 0.7])

    reference = model(16)
    fit(reference, held_out)
    selector = Selector(
        online=model(16), reference=reference, task=Classification(), filter_ratio=0.5
    )
    fit(model(128), train, selector)
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
