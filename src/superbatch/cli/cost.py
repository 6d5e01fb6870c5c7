"""``superbatch cost``: whether selection pays, before anything is spent."""

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from superbatch.cli.cost_price import NO_MODEL_NAME, model_flops, model_seconds, text_flops
from superbatch.cost import NO_MODEL, Plan, Price, ReferenceTraining, scoring_devices, summary
from superbatch.errors import ConfigError
from superbatch.models.variants import VARIANTS, parse_vit_name, vit_forward_flops


Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Options:
    """Does selection pay? Every term of its cost, relative to uniform training = 1 (paper, eq. 5).

    A model is SIZE/PATCH ("L/16", "mu-300/4"), a name of timm ("resnet50"), or the FLOPs of its
    forward pass per example ("61.6G", "1.2T").
    """

    learner: str
    """The model that is paid for."""
    actor: str | None = None
    """The model of both scoring roles; --online and --reference name one of them by itself."""
    online: str | None = None
    """The small model that learns along. "none": the criterion has no such model."""
    reference: str | None = None
    """The model it is compared with. "none": the criterion has no such model."""
    rho: float = 2.0
    """Super-batch over sub-batch: examples scored for each one learned from."""
    beta: float | None = None
    """Share of the baseline's learner updates that are needed for the same quality."""
    speedup: float | None = None
    """The same as 1 - beta: 0.26 for a learner speed-up of 26 %."""
    image_size: int = 224
    """Pixels on a side."""
    classes: int = 0
    """Classes of every model's head; 0 for no head."""
    learner_text: str | None = None
    """A text tower of the learner, WIDTH:DEPTH:TOKENS or FLOPs, on top of the image tower."""
    actor_text: str | None = None
    """The same for both scoring models."""
    scorer: Literal["online", "learner"] = "online"
    """Whose loss is compared with the reference's; the learner's own is RHO-LOSS."""
    train_online: bool = True
    """Whether the online model learns along."""
    reference_training: ReferenceTraining = "scratch"
    """scratch: for this run. online: alongside the learner. free: it exists. amortised: shared by
    several runs. cached: it exists, and so do its scores."""
    amortised_over: int = 1
    """Runs that share a reference (--reference-training amortised)."""
    reference_batch_multiple: float = 10.0
    """Examples a reference trained online learns from, for each one of the learner's."""
    reference_examples_ratio: float = 1.0
    """Examples a reference trained from scratch learns from, over those of the baseline."""
    reuse_forward: Switch = False
    """A forward pass made for scoring also serves the update that follows, where it can."""
    scoring_devices: Switch = False
    """Also: how many devices must score so that the learner never waits."""
    measure: Switch = False
    """Also: the same in seconds, from forward passes and updates timed on this device."""
    plot: Path | None = None
    """Also: the saving over actor sizes, drawn to this .svg, .png or .pdf."""
    json: Switch = False
    """Print the numbers as JSON."""


def run(argv: Sequence[str]) -> int:
    """Answer the question in ``argv``. Raises ``ConfigError`` for one that makes no sense."""
    options = tyro.cli(Options, args=list(argv), prog="superbatch cost")
    plan = planned(options)
    answer: dict[str, Any] = {
        **summary(plan),
        "flops": {role: getattr(plan, role).forward for role in ("learner", "online", "reference")},
        "beta": plan.beta,
        "rho": plan.rho,
        "scoring_devices": scoring_devices(plan),
        "actors": actor_sizes(plan, options),
    }
    if options.measure:
        answer["measured"] = summary(measured(plan, options))
    if options.plot is not None:
        from superbatch.cli.cost_view import draw

        draw(answer, options.plot)
    if options.json:
        print(json_format.dumps(answer, indent=2))
    else:
        from superbatch.cli.cost_view import show

        show(answer, with_devices=options.scoring_devices)
    return 0


def planned(options: Options) -> Plan:
    """The plan that ``options`` describe, priced in FLOPs."""
    roles = _names(options)
    prices = {
        role: Price.of_flops(
            model_flops(name, image_size=options.image_size, classes=options.classes)
            + text_flops(options.learner_text if role == "learner" else options.actor_text)
        )
        if name != NO_MODEL_NAME
        else NO_MODEL
        for role, name in roles.items()
    }
    return Plan(
        **prices,
        rho=options.rho,
        beta=_beta(options),
        trains_online=options.train_online,
        reference_training=options.reference_training,
        amortised_over=options.amortised_over,
        reference_batch_multiple=options.reference_batch_multiple,
        reference_examples_ratio=options.reference_examples_ratio,
        scorer=options.scorer,
        reuse_forward=options.reuse_forward,
    )
