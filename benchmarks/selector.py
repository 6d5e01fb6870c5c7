"""What the Selector costs over selection written out by hand, in a bare loop.

    python benchmarks/selector.py [--rounds 25]

Both choose half of a super-batch of 128 random 32-pixel images by learnability and train the same
models: score with two small ones, draw, let the learner and the online model take a step. By hand
that is what one would write with care: eval mode, no gradients, Gumbel top-k. Steps are taken in
turn in one process, and the ratio is a median over rounds. Exits with 1 if it exceeds 1.02.

Also printed: microseconds of one choice and one online step with models that do next to nothing,
which is what the Selector itself takes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from ratios import ratio, seconds, verdict
from small_run import ACTOR, LEARNER, SIDE
from torch import Tensor, nn
from torch.nn import functional

from superbatch.criterion import learnability
from superbatch.learner import parameter_groups
from superbatch.models.build import build_model
from superbatch.selection import sample_indices
from superbatch.selector import Selector
from superbatch.tasks import Classification


B = 128
LIMIT = 1.02


def made(size: str | None, seed: int) -> nn.Module:
    """A ViT of ``size``, or a model that does next to nothing."""
    if size is None:
        torch.manual_seed(seed)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    return build_model(size, image_size=SIDE, channels=3, classes=10, seed=seed)


def super_batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    image = torch.randn(B, 3, SIDE, SIDE, generator=random)
    return image, torch.randint(10, (B,), generator=random)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)


def train(learner: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]) -> None:
    """The loop's own step."""
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(learner(batch[0]), batch[1]).backward()
    optimizer.step()


def with_selector(size: str | None) -> tuple[Callable[[], object], Callable[[object], object]]:
    online = made(size, 1)
    chooser = Selector(
        task=Classification(),
        online=online,
        reference=made(size, 2),
        criterion=learnability,
        filter_ratio=0.5,
        optimizer=adamw(online),
    )
    batch = super_batch()
    return lambda: chooser.select(batch), chooser.learn


def by_hand(size: str | None) -> tuple[Callable[[], object], Callable[[object], object]]:
    online, reference = made(size, 1), made(size, 2)
    optimizer = adamw(online)
    generator = torch.Generator().manual_seed(0)
    image, label = super_batch()

    def select() -> tuple[Tensor, Tensor]:
        online.eval()
        reference.eval()
        with torch.no_grad():
            scores = functional.cross_entropy(online(image), label, reduction="none")
            scores = scores - functional.cross_entropy(reference(image), label, reduction="none")
        online.train()
        index = sample_indices(scores, B // 2, generator=generator)
        return image[index], label[index]

    return select, lambda batch: train(online, optimizer, batch)


def step(
    parts: tuple[Callable[[], object], Callable[[object], object]], learner: nn.Module
) -> Callable[[], None]:
    """The three lines."""
    select, learn = parts
    optimizer = adamw(learner)

    def run() -> None:
        batch = select()
        train(learner, optimizer, batch)
        learn(batch)

    return run


def microseconds(select: Callable[[], object], learn: Callable[[object], object]) -> float:
    """Of the processor, for one choice and one online step; the median of 300."""
    taken = []
    for _ in range(300):
        start = time.process_time()
        learn(select())
        taken.append(time.process_time() - start)
    return 1e6 * statistics.median(taken)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=25)
    given = options.parse_args()
    ours, theirs = microseconds(*with_selector(None)), microseconds(*by_hand(None))
    print(f"next to nothing: {ours:.0f} us with the Selector, {theirs:.0f} us by hand")
    learner = made(LEARNER, 0)
    ours, theirs = step(with_selector(ACTOR), learner), step(by_hand(ACTOR), learner)
    measured = ratio(ours, theirs, rounds=given.rounds)
    alone = statistics.median(seconds(theirs) for _ in range(3))
    print(f"{LEARNER} with actors {ACTOR}, {B} rows: {alone:.3f} s a step by hand")
    return not verdict("a step with the Selector over one by hand", measured, LIMIT)


if __name__ == "__main__":
    sys.exit(main())
