"""Roles: which models each criterion asks. Without torch, which ``--help`` does not wait for."""

from collections.abc import Mapping
from types import MappingProxyType

from superbatch.config import Config


_BY_ROLES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): ("uniform",),
    ("online",): ("hard",),
    ("reference",): ("easy",),
    ("online", "reference"): ("learnability",),
    ("learner", "reference"): ("rho_loss",),
    ("learner",): (
        "hard_learner",
        "grad_norm",
        "grad_norm_is",
        "grad_norm_full",
        "entropy",
        "conditional_entropy",
        "bald",
        "loss_minus_conditional_entropy",
        "selective_backprop",
        "infobatch",
    ),
}
ROLES_OF: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: frozenset(roles) for roles, names in _BY_ROLES.items() for name in names}
)
"""Of each criterion by its name (a test holds them to what the criteria say of themselves)."""


def uses_reference(config: Config) -> bool:
    """Whether the criterion weighs the losses of a reference."""
    return "reference" in ROLES_OF[config.select.criterion]


def learner_scores(config: Config) -> bool:
    """Whether the criterion asks the learner itself."""
    return "learner" in ROLES_OF[config.select.criterion]
