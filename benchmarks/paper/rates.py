"""Rates: the seconds that a run's FLOPs should take here, each model at its own pace.

A small model does fewer FLOPs a second than a large one, so the seconds of a run cannot follow its
FLOPs alone. What is left to judge is what the loop around the models costs.
"""

import time
from collections.abc import Mapping
from functools import cache
from statistics import median

from superbatch.cli.cost_price import model_flops, model_seconds
from superbatch.config import Config
from superbatch.cost import FORWARDS_PER_UPDATE
from superbatch.models.conv import parse_conv_name
from superbatch.models.variants import parse_vit_name


FORWARD = ("score", "evaluate", "recompute")
"""Kinds of FLOPs in a ledger that are of forward passes alone."""
CLASSES = 10
"""Of the models that are timed; a head takes next to nothing."""
TIMES = 3
"""That each is timed, of which the median counts."""


@cache
def seconds_per_flop(name: str, side: int, learned: int) -> tuple[float, float]:
    """Of a forward pass, on as many images as score at once, and of an update on ``learned`` images
    of ``side`` pixels, of the processor as runs are timed; takes some seconds. Time them in as much
    company as the runs had.
    """
    flops = model_flops(name, image_size=side, classes=CLASSES)
    prices = [
        model_seconds(
            name, image_size=side, classes=CLASSES, learned=learned, clock=time.process_time
        )
        for _ in range(TIMES)
    ]
    forward = median(price.forward for price in prices)
    update = median(price.update for price in prices)
    return forward / flops, update / (FORWARDS_PER_UPDATE * flops)


def predicted_seconds(
    by_role: Mapping[str, Mapping[str, float]], config: Config, side: int
) -> float | None:
    """Of all FLOPs in ``by_role``, evaluations included; None for models that are not timed."""
    if config.task != "classification":
        return None
    names = config.models.model_dump()
    spent = {role: kinds for role, kinds in by_role.items() if any(kinds.values())}
    if not all(is_timed(names[role]) for role in spent):
        return None
    total = 0.0
    for role, kinds in spent.items():
        forward, update = seconds_per_flop(names[role], side, config.select.sub_batch_size)
        for kind, flops in kinds.items():
            total += flops * (forward if kind in FORWARD else update)
    return total


def is_timed(name: str) -> bool:
    """Whether the name says all that it takes to build the model."""
    return bool(parse_vit_name(name) or parse_conv_name(name))
