"""Rates: the seconds that a run's FLOPs should take here, each model at its own pace.

A small model does fewer FLOPs a second than a large one, so the seconds of a run cannot follow its
FLOPs alone. What is left to judge is what the loop around the models costs. A machine's pace moves
with its company, by a tenth or two: models are timed before and after each run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from superbatch.cli.cost_price import model_flops, model_seconds
from superbatch.config import Config
from superbatch.cost import FORWARDS_PER_UPDATE
from superbatch.models.conv import parse_conv_name
from superbatch.models.variants import parse_vit_name
from superbatch.types import Role, size, take


Pace = Sequence[float]
"""Seconds for a FLOP of a forward pass, and for one of an update."""
Paces = Mapping[str, Pace]
"""Of models, by name."""
FORWARD = ("score", "evaluate", "recompute")
"""Kinds of FLOPs in a ledger that are of forward passes alone."""
BEFOREHAND = ("pretrain", "evaluate")
"""Kinds of a reference's FLOPs that are of its own training, before the run."""
CLASSES = 10
"""Of the models that are timed; a head takes next to nothing."""


MEASURED = 1.0
"""Seconds for which a scoring pass, or an update, of pairs is timed."""


def paces_of(roles: Sequence[Role], config: Config, side: int) -> Paces:
    """Of the models of ``config`` in ``roles``, on images of ``side`` pixels; none if that is 0."""
    if not side:
        return {}
    role_of = {config.models.model_dump()[role]: role for role in roles}
    if config.task == "image_text":
        return pair_paces(role_of, config)
    learned = config.select.sub_batch_size
    return {name: pace(name, side, learned) for name in sorted(role_of) if is_timed(name)}


def pair_paces(role_of: Mapping[str, Role], config: Config) -> Paces:
    """Of models of images with captions, by name, each on pairs of the run's data in the role that
    it has there: losses of as many as score at once, and updates on as many as are learned.
    """
    import torch

    from superbatch.build import learner_of
    from superbatch.feed import uniform_stream_of
    from superbatch.passes import ROWS_ON_CPU
    from superbatch.problems import problem_of
    from superbatch.sources import plain

    problem, learned = problem_of(config), config.select.sub_batch_size
    scored = min(ROWS_ON_CPU, config.select.super_batch_size)
    pairs = next(iter(uniform_stream_of(config, problem, scored, "paces", plain)))
    chosen = take(pairs, torch.arange(learned))
    found = {}
    for name, role in sorted(role_of.items()):
        learner = learner_of(config, role, problem, torch.device("cpu"))
        flops = problem.forward_flops(learner.model)
        forward = seconds_of(lambda learner=learner: learner.losses(pairs))
        update = seconds_of(lambda learner=learner: learner.step(chosen))
        of_pairs, of_chosen = flops * size(pairs), FORWARDS_PER_UPDATE * flops * size(chosen)
        found[name] = [forward / of_pairs, update / of_chosen]
    return found


def seconds_of(work: Callable[[], object]) -> float:
    """Of the processor, for one ``work``: the median over a second of them, after a first."""
    work()
    took: list[float] = []
    while len(took) < 3 or sum(took) < MEASURED:
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return median(took)


def pace(name: str, side: int, learned: int) -> Pace:
    """Of a forward pass, on as many images as score at once, and of an update on ``learned`` images
    of ``side`` pixels, of the processor as runs are timed; takes two seconds or more.
    """
    flops = model_flops(name, image_size=side, classes=CLASSES)
    price = model_seconds(
        name, image_size=side, classes=CLASSES, learned=learned, clock=time.process_time
    )
    return price.forward / flops, price.update / (FORWARDS_PER_UPDATE * flops)


def mean_pace(timed: Sequence[Paces]) -> Paces:
    """The mean of every model over the times that it was timed."""
    names = dict.fromkeys(name for paces in timed for name in paces)
    each = {name: [paces[name] for paces in timed if name in paces] for name in names}
    return {
        name: [fmean(values) for values in zip(*found, strict=True)] for name, found in each.items()
    }


def predicted_seconds(
    by_role: Mapping[str, Mapping[str, float]], config: Config, beside: Paces, before: Paces
) -> float | None:
    """Of all FLOPs in ``by_role``, evaluations included: a model at its pace ``beside`` the run, a
    reference that was trained beforehand at that ``before`` it; None for models of unknown pace.
    """
    names = config.models.model_dump()
    total = 0.0
    for role, kinds in by_role.items():
        for kind, flops in kinds.items():
            paces = before if role == "reference" and kind in BEFOREHAND else beside
            if flops and names[role] not in paces:
                return None
            if flops:
                total += flops * paces[names[role]][0 if kind in FORWARD else 1]
    return total


def is_timed(name: str) -> bool:
    """Whether the name says all that it takes to build the model."""
    return bool(parse_vit_name(name) or parse_conv_name(name))
