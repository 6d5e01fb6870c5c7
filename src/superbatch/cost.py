"""Does it pay? The cost of training on selected data, before spending it (paper, eq. 5-6).

Everything is relative to uniform training, which costs 1: a relative cost of 0.8 is a saving of
20 %. ``beta`` is the share of the baseline's learner updates that selection needs to reach the
same quality (0.74 for a learner speed-up of 26 %). Two accountings are always given:

- ``"paper"``: eq. 5 as it reproduces the paper's table 1. It leaves out the online model's own
  updates, and prices a reference trained alongside the learner like one trained once, on as many
  examples as the baseline learns from.
- ``"full"``: everything that runs.

Prices may be FLOPs or seconds; only their ratios matter. Nothing here needs torch.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from superbatch.errors import ConfigError


Accounting = Literal["paper", "full"]
"""Which work is counted; see the module's docstring."""

ReferenceTraining = Literal["scratch", "online", "free", "amortised", "cached"]
"""How the reference comes to be: trained once for this run; trained alongside the learner; already
there; trained once for several runs; already there with its scores on disk, so it never runs."""

Verdict = Literal["compute-positive", "compute-negative"]
"""Whether reaching the baseline's quality costs less than the baseline."""

FORWARDS_PER_UPDATE = 3
"""An update costs three forward passes (paper, section 3)."""


@dataclass(frozen=True)
class Price:
    """What one example costs a model: a forward pass, and an update that includes one."""

    forward: float
    update: float

    @classmethod
    def of_flops(cls, forward: int | float) -> "Price":
        """The price of a model whose forward pass takes ``forward`` FLOPs per example."""
        return cls(float(forward), FORWARDS_PER_UPDATE * float(forward))


NO_MODEL = Price(0.0, 0.0)
"""The price of a model that the criterion does not have."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as it is planned.

    ``learner``, ``online`` and ``reference`` are prices per example, ``NO_MODEL`` where the
    criterion has no such model. ``rho`` >= 1 examples are scored for each one learned from.
    ``beta`` > 0 as above; above 1, selection does harm.

    ``scorer`` says whose loss the reference's is compared with: the online model's (ClassAct) or
    the learner's own (RHO-LOSS), which then has no online model. ``trains_online`` is False for an
    online model that is kept as it is.

    A reference trained from scratch learns from ``reference_examples_ratio`` x the examples of the
    baseline; its cost is shared by ``amortised_over`` runs. One trained ``"online"`` learns from
    ``reference_batch_multiple`` x the sub-batch in every step (10 in the paper).

    ``reuse_forward``: a forward pass made for scoring also serves the update that follows, of the
    learner if it scores, and of a reference trained online.

    Raises ``ConfigError`` for numbers outside these ranges.
    """

    learner: Price
    online: Price
    reference: Price
    rho: float
    beta: float
    trains_online: bool = True
    reference_training: ReferenceTraining = "scratch"
    amortised_over: int = 1
    reference_batch_multiple: float = 10.0
    reference_examples_ratio: float = 1.0
    scorer: Literal["online", "learner"] = "online"
    reuse_forward: bool = False

    def __post_init__(self) -> None:
        for role, price in (("online", self.online), ("reference", self.reference)):
            if not (0 <= price.forward < math.inf and 0 <= price.update < math.inf):
                raise ConfigError(f"the {role} model cannot cost {price.forward} per forward pass")
        if not (0 < self.learner.forward < math.inf and 0 < self.learner.update < math.inf):
            raise ConfigError(
                f"the learner must have a price above 0; it has {self.learner.forward} per forward "
                f"pass and {self.learner.update} per update"
            )
        if not 0 < self.beta < math.inf:
            raise ConfigError(
                f"beta ({self.beta}) must be a number above 0: the share of the baseline's updates "
                "that is needed, 0.74 for a learner speed-up of 26 %"
            )
        for name, least in (
            ("rho", 1),
            ("amortised_over", 1),
            ("reference_batch_multiple", 0),
            ("reference_examples_ratio", 0),
        ):
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} ({getattr(self, name)}) must be a number, at least {least}"
                )
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.amortised_over != 1 and self.reference_training != "amortised":
            raise ConfigError(
                f"a reference amortised over {self.amortised_over} runs does not go with "
                f"reference training {self.reference_training!r}; make that 'amortised'"
            )
        if self.reuse_forward and self.scorer == "online" and self.reference_training != "online":
            raise ConfigError(
                "there is no forward pass to reuse: neither does the learner score, nor is the "
                "reference trained online"
            )


@dataclass(frozen=True)
class CostTerms:
    """Where the cost of a plan goes, each term relative to uniform training = 1.

    ``reused`` is negative: forward passes counted in scoring that an update need not repeat.
    """

    learner: float
    scoring_learner: float
    scoring_online: float
    scoring_reference: float
    online_updates: float
    reference_training: float
    reused: float

    @property
    def total(self) -> float:
        """The relative cost."""
        return math.fsum(asdict(self).values())


def cost_terms(plan: Plan, accounting: Accounting) -> CostTerms:
    """Every term of eq. 5 by itself, and those that eq. 5 leaves out (zero in ``"paper"``)."""
    return _terms(plan, accounting, plan.beta)


def relative_cost(plan: Plan, accounting: Accounting) -> float:
    """The cost of reaching the baseline's quality; the baseline itself costs 1."""
    return cost_terms(plan, accounting).total


def saving(plan: Plan, accounting: Accounting) -> float:
    """The compute speed-up: the share of the baseline's cost that is saved; negative if none."""
    return 1.0 - relative_cost(plan, accounting)


def break_even_beta(plan: Plan, accounting: Accounting) -> float:
    """The ``beta`` below which the plan pays; 0 where none does. The plan's own plays no part."""
    fixed = _terms(plan, accounting, 0.0).total
    per_beta = _terms(plan, accounting, 1.0).total - fixed
    return max(0.0, (1.0 - fixed) / per_beta)


def verdict(plan: Plan, accounting: Accounting) -> Verdict:
    """Compute-positive if the plan costs less than uniform training (paper, eq. 5)."""
    return "compute-positive" if relative_cost(plan, accounting) < 1.0 else "compute-negative"


def scoring_devices(plan: Plan) -> float:
    """Devices that must score for each one that trains the learner, so that it never waits.

    For devices of the learner's kind: the cost of scoring over the cost of the learner's updates,
    in the same step. It depends on rho, not on beta.
    """
    step = _terms(plan, "full", 1.0)
    return step.scoring_learner + step.scoring_online + step.scoring_reference


def summary(plan: Plan) -> dict[str, Any]:
    """All of the above as plain values, the way ``superbatch cost --json`` prints them.

    The one ``verdict`` is the full accounting's; each accounting also has its own.
    """
    by_accounting = {name: asdict(cost_terms(plan, name)) for name in get_args(Accounting)}
    terms = {
        term: {name: values[term] for name, values in by_accounting.items()}
        for term in by_accounting["full"]
    }
    accountings = {
        name: {
            "relative_cost": relative_cost(plan, name),
            "saving": saving(plan, name),
            "break_even_beta": break_even_beta(plan, name),
            "verdict": verdict(plan, name),
        }
        for name in get_args(Accounting)
    }
    return {"terms": terms, **accountings, "verdict": verdict(plan, "full")}


def _terms(plan: Plan, accounting: Accounting, beta: float) -> CostTerms:
    """The terms at another ``beta``, in which they are linear."""
    is_full = accounting == "full"
    unit = plan.learner.update
    learner_scores = plan.scorer == "learner"
    is_cached = plan.reference_training == "cached"
    return CostTerms(
        learner=beta,
        scoring_learner=beta * plan.rho * plan.learner.forward / unit if learner_scores else 0.0,
        scoring_online=0.0 if learner_scores else beta * plan.rho * plan.online.forward / unit,
        scoring_reference=0.0 if is_cached else beta * plan.rho * plan.reference.forward / unit,
        online_updates=beta * plan.online.update / unit
        if is_full and plan.trains_online and not learner_scores
        else 0.0,
        reference_training=_reference_training(plan, accounting, beta),
        reused=-beta * _reused(plan) if is_full and plan.reuse_forward else 0.0,
    )


def _reference_training(plan: Plan, accounting: Accounting, beta: float) -> float:
    """The last term of eq. 5, or what training alongside really takes."""
    ratio = plan.reference.update / plan.learner.update
    match plan.reference_training:
        case "online" if accounting == "full":
            return beta * plan.reference_batch_multiple * ratio
        case "online":
            return ratio
        case "scratch" | "amortised":
            return plan.reference_examples_ratio * ratio / plan.amortised_over
        case "free" | "cached":
            return 0.0


def _reused(plan: Plan) -> float:
    """Forward passes per learner step that serve twice: of the b examples the learner learns from,
    and of those the reference both scores and learns from."""
    learner = plan.learner.forward if plan.scorer == "learner" else 0.0
    shared = min(plan.rho, plan.reference_batch_multiple)
    reference = shared * plan.reference.forward if plan.reference_training == "online" else 0.0
    return (learner + reference) / plan.learner.update
