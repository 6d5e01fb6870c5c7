"""Selection in a plain loop under Accelerate. python examples/accelerate_loop.py."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, ReLU, Sequential, functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from superbatch import Selector
from superbatch.tasks import Classification


def model(width: int) -> Sequential:
    """Of digits of 8 x 8."""
    return Sequential(Flatten(), Linear(64, width), ReLU(), Linear(width, 10))


def fit(accelerator: Accelerator, net, rows, selector: Selector | None = None) -> None:
    """Two epochs, on chosen rows if there is a selector."""
    loader = DataLoader(rows, batch_size=64, shuffle=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for _ in range(2):
        for super_batch in loader:
            batch = selector.select(super_batch) if selector else super_batch
            loss = functional.cross_entropy(net(batch[0]), batch[1])
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            if selector:
                selector.learn(batch)


def main(folder: str = "accelerate_out") -> dict:
    """Train a reference on other rows, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    held_out, train = random_split(TensorDataset(images, torch.tensor(found.target)), [0.3, 0.7])

    accelerator, reference = Accelerator(), model(16)
    fit(accelerator, reference, held_out)
    selector = Selector(
        online=model(16), reference=reference, task=Classification(), filter_ratio=0.5
    )
    selector.to(accelerator.device)
    accelerator.register_for_checkpointing(selector)
    fit(accelerator, model(128), train, selector)
    accelerator.save_state(folder)  # load_state(folder) resumes the selector too
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
