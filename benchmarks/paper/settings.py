"""The settings of every preset. Edit here: all claims, tables and commands follow.

Settings of ``cpu`` and ``gpu`` are chosen with ``--on validation``, then left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from paper.arm import Flags


AUGMENTED = {"data.flip": "", "data.crop-padding": "4"}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One scale of all claims: models, updates, and which data each claim runs on."""

    says: str
    learner: str
    actor: str
    """The small model that scores, online and reference, unless a claim asks for another."""
    reference_actor: str = ""
    """The reference, where it is another model than the online one."""
    reference_learning_rate: float | None = None
    """Where it is not the learner's."""
    actors: tuple[str, ...]
    """Of C2: from the learner's own size down."""
    small_learner: str
    """Of C6: the learner of the run that the distilled order comes from."""
    steps: int
    batch: int
    rho: int
    temperature: float
    reference: str = "clean"
    """What the reference learns: "clean", the part with true labels; or "pool", what is learned."""
    reference_steps: int
    learning_rate: float
    budgets: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Of C4: updates over those of the other claims."""
    evaluations: int = 20
    checkpoints: int = 5
    """How many of each in a run, about."""
    rho_loss_steps: int
    rho_loss_batch: int = 32
    """Of C7, whose B is ten times that (RHO-LOSS: 32 of 320)."""
    pair_models: tuple[str, str] = ("mu-300/12+mu-600", "mu-2400/12")
    """Of C5's images with captions: learner, and actors."""
    pair_flags: Flags = field(default_factory=dict)
    flags: Flags = field(default_factory=dict)
    """Further flags of every arm with labels."""
    scoring: Flags = field(default_factory=dict)
    """Further flags of every such arm that scores, such as another view or a memory bank."""
    data: Mapping[str, tuple[str, ...]]
    """The data sets of each claim, by the names in `paper.data`."""
    seeds: int = 3
    grid: int = 20
    """Uniform at an arm's FLOPs has its updates rounded up to this part of the arm's, so that
    arms of about the same cost share those runs; what it gains by it is uniform's."""
    paced: bool = False
    """Time each model before and after every run, some seconds each: what it should have taken."""
    unrun: bool = False
    """Nobody here has run it: configuration only."""


IMAGES = ("cifar10n-worse", "cifar10n-random1", "cifar10n-clean", "tiny-imagenet-noisy")
ON = MappingProxyType(
    {
        "C1": IMAGES,
        "C2": ("cifar10n-worse", "tiny-imagenet-noisy"),
        "C3": ("cifar10n-worse", "tiny-imagenet-noisy"),
        "C4": ("cifar10n-worse", "tiny-imagenet-noisy"),
        "C5": ("cifar10n-worse", "cifar10n-random1", "flickr8k-moved"),
        "C6": ("cifar10n-worse", "tiny-imagenet-noisy"),
        "C7": ("cifar10", "cifar10-noise10"),
    }
)

CPU = Preset(
    says="two cores, hours; every run a minute or two",
    learner="conv-32/2",
    actor="conv-4/2",
    reference_actor="conv-8/2",
    reference_learning_rate=5e-3,
    actors=("conv-16/2", "conv-8/2", "conv-4/2", "conv-2/2"),
    small_learner="conv-16/2",
    paced=True,
    steps=520,
    batch=128,
    rho=5,
    temperature=1.0,
    reference_steps=1600,
    learning_rate=2e-3,
    evaluations=6,
    grid=2,
    rho_loss_steps=1000,
    pair_flags={
        "steps": "260",
        "select.super-batch-size": "128",
        "select.sub-batch-size": "64",
        "reference-training.steps": "600",
        "optimise.learning-rate": "0.0005",
        "optimise.warmup-fraction": "0.1",
    },
    flags=AUGMENTED | {"device": "cpu", "record.selection": "none"},
    data=ON
    | {
        "C1": ("cifar10n-worse", "cifar10n-random1", "cifar10n-clean", "tiny-imagenet-noisy"),
        "C5": ("cifar10n-worse", "flickr8k-moved"),
    },
)

GOAL = replace(
    CPU,
    says="one core, minutes a run: a learner 15 times its reference, 57 times its online model",
    steps=1560,
    temperature=0.5,
    evaluations=8,
    data={"GOAL": ("cifar10n-worse", "cifar10n-random1", "tiny-imagenet-noisy")},
)

GOAL_WIDE = replace(
    GOAL,
    says="one core, minutes a run: a learner 27 times its reference, 225 times its online model",
    learner="conv-64/2",
    reference_actor="conv-12/2",
)

GPU = replace(
    CPU,
    says="one GPU, bf16, compiled, ViT-S/4 learner",
    learner="S/4",
    actor="mu-300/4",
    reference_actor="",
    reference_learning_rate=None,
    actors=("S/4", "Ti/4", "mu-100/4", "mu-300/4", "mu-1000/4", "mu-2400/4"),
    small_learner="Ti/4",
    paced=False,
    steps=8000,
    batch=256,
    learning_rate=1e-3,
    evaluations=20,
    grid=20,
    data=ON,
    reference_steps=8000,
    rho_loss_steps=20_000,
    pair_models=("S/8+mu-100", "mu-300/8"),
    flags=AUGMENTED
    | {
        "device": "cuda",
        "optimise.bf16": "",
        "optimise.compile": "",
        "record.selection": "none",
    },
)

PAPER = replace(
    CPU,
    says="the original scale on data of your own (--data-path): ViT-L/16, JFT's 3 epochs; not run "
    "here. Batch size and augmentation are ours, the paper's are not known",
    learner="L/16",
    actor="Ti/16",
    reference_actor="",
    reference_learning_rate=None,
    actors=("L/16", "B/16", "S/16", "Ti/16", "mu-100/16", "mu-300/16", "mu-1000/16"),
    small_learner="B/16",
    paced=False,
    steps=220_000,
    batch=4096,
    rho=2,
    temperature=1.0,
    reference="pool",
    reference_steps=220_000,
    learning_rate=1e-3,
    evaluations=20,
    grid=20,
    rho_loss_steps=220_000,
    rho_loss_batch=512,
    flags={
        "device": "cuda",
        "data.image-size": "224",
        "data.flip": "",
        "optimise.bf16": "",
        "optimise.compile": "",
        "optimise.label-smoothing": "0.1",
        "record.selection": "none",
    },
    data=dict.fromkeys(ON, ("own",)),
    seeds=1,
    unrun=True,
)

CHECK = Preset(
    says="every claim end to end on scikit-learn's digits, in a minute; its numbers say nothing",
    learner="mu-1000/4",
    actor="mu-2400/4",
    actors=("mu-1000/4", "mu-2400/4"),
    small_learner="mu-2400/4",
    steps=12,
    batch=16,
    rho=2,
    temperature=0.5,
    reference_steps=12,
    learning_rate=3e-3,
    budgets=(0.5, 1.0, 2.0),
    evaluations=4,
    checkpoints=2,
    rho_loss_steps=12,
    rho_loss_batch=8,
    pair_models=("mu-1000/4+mu-2400", "mu-2400/4"),
    pair_flags={
        "steps": "8",
        "select.super-batch-size": "16",
        "select.sub-batch-size": "8",
        "reference-training.steps": "8",
    },
    flags={"device": "cpu", "record.selection": "none"},
    data=dict.fromkeys(("GOAL", "C1", "C2", "C3", "C4", "C6"), ("digits-noisy",))
    | {"C5": ("digits-noisy", "pairs-moved"), "C7": ("digits-noisy",)},
    seeds=2,
    grid=1,
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "cpu": CPU,
        "goal": GOAL,
        "goal-wide": GOAL_WIDE,
        "gpu": GPU,
        "gpu-b": replace(GPU, says="the same with a ViT-B/4 learner", learner="B/4", actor="Ti/4"),
        "paper": PAPER,
        "check": CHECK,
    }
)
