"""Algorithm 1 from its parts: no recipe, no run folder. python examples/algorithm_1.py."""

import numpy as np
import torch

from superbatch.actors.inline import InlineActor
from superbatch.actors.scorers import LossScorer
from superbatch.bank import MemoryBank
from superbatch.clock import Clock
from superbatch.criterion import Criterion, learnability
from superbatch.flops import Ledger, forward_flops
from superbatch.learner import Learner, Optimisation, warmup_cosine
from superbatch.loop import train
from superbatch.models.build import build_model
from superbatch.sources import Stream, open_examples, plain
from superbatch.tasks import Classification


STEPS, B, b = 60, 64, 32


def learner(size: str, seed: int) -> Learner:
    """A small ViT for 8 x 8 grey digits, and how it learns."""
    model = build_model(size, image_size=8, channels=1, classes=10, seed=seed)
    schedule = warmup_cosine(peak=1e-3, warmup=5, steps=STEPS)
    return Learner(model, Classification(), Optimisation(schedule))


def main(criterion: Criterion = learnability) -> float:
    """Train by ``criterion``; the last loss of the learner."""
    digits = open_examples("digits")
    super_batches = Stream(digits, np.arange(len(digits)), batch_size=B, seed=0)
    trained = {"learner": learner("mu-600/4", seed=0), "online": learner("mu-2400/4", seed=1)}
    reference = learner("mu-2400/4", seed=2)
    for batch, _ in zip(super_batches, range(STEPS), strict=False):
        reference.step(batch)

    losses = {"online": trained["online"].losses, "reference": reference.losses}
    image = torch.empty(1, *digits.image_shape, device="meta")
    ledger = Ledger(
        {role: forward_flops(one.model, image) for role, one in trained.items()}
        | {"reference": forward_flops(reference.model, image)}
    )
    ledger.pretrain("reference", STEPS * B)
    loop = train(
        InlineActor(super_batches, LossScorer(criterion, losses)),
        MemoryBank(capacity=B, super_batches=1, generator=torch.Generator().manual_seed(0)),
        trained,
        ledger,
        steps=range(1, STEPS + 1),
        sub_batch_size=b,
        roles=criterion.roles,
        learn_view=plain,
        alone={},
        clock=Clock(),
    )
    for step in loop:
        if step.number % 20 == 0:
            print(step.number, {role: round(float(x), 3) for role, x in step.losses.items()})
    print(f"{ledger.total('paper'):.3g} FLOPs by eq. 5, {ledger.total('full'):.3g} in full")
    return float(step.losses["learner"])


if __name__ == "__main__":
    main()
