"""``superbatch cost``: whether selection pays, before anything is spent."""

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from superbatch.cli.cost_price import model_flops, model_seconds, text_flops
from superbatch.cost import NO_MODEL, Plan, Price, ReferenceTraining, scoring_devices, summary
from superbatch.errors import ConfigError
from superbatch.models.variants import VARIANTS, parse_vit_name


Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Model = Annotated[str | None, tyro.conf.arg(metavar="MODEL")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TOWER")]
Share = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]

REPORTED_SPEEDUP = {("L", "B"): 0.31, ("L", "Ti"): 0.26}
"""Learner speed-ups by learner and actor, of learnability at rho = 2 (paper, figure 4)."""


@dataclass(frozen=True)
class Options:
    """Does selection pay? Every term of its cost, relative to uniform training = 1 (paper, eq. 5).

    A model is SIZE/PATCH ("L/16", "mu-300/4"), a name of timm ("resnet50"), both towers of one of
    open_clip ("open_clip:ViT-B-32"), or the FLOPs of its forward pass per example ("61.6G").
    """

    learner: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """The model that is paid for."""
    actor: Model = None
    """The model of both scoring roles; --online and --reference name one of them by itself."""
    online: Model = None
    """The small model that learns along."""
    reference: Model = None
    """The trained model that it is compared with."""
    rho: float = 2.0
    """Super-batch over sub-batch: examples scored for each one learned from."""
    beta: Share = None
    """Share of the baseline's learner updates that are needed for the same quality."""
    speedup: Share = None
    """The same as 1 - beta: 0.26 for a learner speed-up of 26 %."""
    image_size: int = 224
    """Pixels on a side."""
    classes: int = 0
    """Classes of every model's head; 0 for no head."""
    learner_text: Text = None
    """A text tower of the learner, WIDTH:DEPTH:TOKENS or FLOPs, on top of the image tower."""
    actor_text: Text = None
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
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also: the saving over actor sizes, drawn to this .svg, .png or .pdf."""
    json: Switch = False
    """Print the numbers as JSON."""


def run(argv: Sequence[str]) -> int:
    """Answer the question in ``argv``. Raises ``ConfigError`` for one that makes no sense."""
    options = tyro.cli(Options, args=list(argv), prog="superbatch cost")
    plan = planned(options)
    answer: dict[str, Any] = {
        **summary(plan),
        "beta": plan.beta,
        "rho": plan.rho,
        "flops": prices(plan),
        "scoring_devices": scoring_devices(plan),
        "actors": actor_sizes(plan, options),
    }
    if options.measure:
        answer["measured"] = measured(plan, options)
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

    def price(name: str, text: str | None) -> Price:
        image = model_flops(name, image_size=options.image_size, classes=options.classes)
        return Price.of_flops(image + text_flops(text))

    online, reference = scoring_models(options)
    return Plan(
        learner=price(options.learner, options.learner_text),
        online=NO_MODEL if online is None else price(online, options.actor_text),
        reference=price(reference, options.actor_text),
        rho=options.rho,
        beta=planned_beta(options),
        trains_online=options.train_online,
        reference_training=options.reference_training,
        amortised_over=options.amortised_over,
        reference_batch_multiple=options.reference_batch_multiple,
        reference_examples_ratio=options.reference_examples_ratio,
        scorer=options.scorer,
        reuse_forward=options.reuse_forward,
    )


def scoring_models(options: Options) -> tuple[str | None, str]:
    """The online model's name, None where the learner scores in its place, and the reference's."""
    if options.scorer == "learner" and options.online is not None:
        raise ConfigError(
            f"--online {options.online} does not go with --scorer learner, which scores in its "
            "place; leave one of them out"
        )
    online = None if options.scorer == "learner" else options.online or options.actor
    reference = options.reference or options.actor
    if reference is None or (online is None and options.scorer == "online"):
        raise ConfigError("which models score? Give --actor for both, or --online and --reference")
    return online, reference


def planned_beta(options: Options) -> float:
    """``--beta``, or what ``--speedup`` makes of it."""
    if options.beta is not None and options.speedup is None:
        return options.beta
    if options.speedup is not None and options.beta is None:
        if not options.speedup < 1:
            raise ConfigError(
                f"--speedup {options.speedup} must be below 1: it is the share of the learner's "
                "updates that is saved, 0.26 for 26 %"
            )
        return 1.0 - options.speedup
    raise ConfigError(
        "give either --beta (share of the learner's updates that is needed) or --speedup "
        "(share that is saved); superbatch cost then says which would break even"
    )


def actor_sizes(plan: Plan, options: Options) -> list[dict[str, Any]]:
    """The same plan with each smaller size of ViT in place of the scoring models it has."""
    names = (scoring_models(options)[1], options.learner)
    patch = next((vit[1] for name in names if (vit := parse_vit_name(name))), 16)
    if options.image_size % patch:  # a guess that does not fit: only raw FLOPs were given
        return []
    rows = []
    for size in VARIANTS:
        forward = model_flops(
            f"{size}/{patch}", image_size=options.image_size, classes=options.classes
        ) + text_flops(options.actor_text)
        if forward >= plan.learner.forward:
            continue
        price = Price.of_flops(forward)
        has_online = plan.online != NO_MODEL
        resized = replace(plan, online=price if has_online else NO_MODEL, reference=price)
        rows.append(
            {"actor": f"{size}/{patch}", "times_cheaper": plan.learner.forward / forward}
            | {name: summary(resized)[name] for name in ("paper", "full")}
            | reported(resized, options.learner, size)
        )
    return rows


def reported(plan: Plan, learner: str, size: str) -> dict[str, Any]:
    """What the paper measured for these two sizes, and what ``plan`` would save by it."""
    speedup = REPORTED_SPEEDUP.get((learner.split("/")[0], size))
    if speedup is None or plan.rho != 2 or plan.scorer == "learner":
        return {}
    answer = summary(replace(plan, beta=1.0 - speedup))
    return {
        "reported_speedup": speedup,
        "reported_saving": {name: answer[name]["saving"] for name in ("paper", "full")},
    }


def measured(plan: Plan, options: Options) -> dict[str, Any]:
    """The summary of ``plan`` in seconds, and the seconds themselves, per example."""
    if options.learner_text or options.actor_text:
        raise ConfigError("--measure times image towers only; leave the text towers out")

    def price(name: str) -> Price:
        return model_seconds(name, image_size=options.image_size, classes=options.classes)

    online, reference = scoring_models(options)
    timed = replace(
        plan,
        learner=price(options.learner),
        online=NO_MODEL if online is None else price(online),
        reference=price(reference),
    )
    return {**summary(timed), "seconds": prices(timed)}


def prices(plan: Plan) -> dict[str, dict[str, float]]:
    """What a forward pass and an update cost each model of ``plan`` per example."""
    return {
        "learner": asdict(plan.learner),
        "online": asdict(plan.online),
        "reference": asdict(plan.reference),
    }
