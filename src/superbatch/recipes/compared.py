"""What RHO-LOSS is held against (Mindermann et al. 2022), and what came after it, as recipes.

Those that take the highest scores do as their authors did; each has a card in docs/methods.
"""

from superbatch.config import Config


def train_loss() -> Config:
    """The learner's own highest losses (Loshchilov & Hutter 2015; Kawaguchi & Lu 2020)."""
    return by_learner("train_loss", "hard_learner", temperature=0.0)


def grad_norm() -> Config:
    """The longest gradients by the learner's last layer (Katharopoulos & Fleuret 2018)."""
    return by_learner("grad_norm", "grad_norm", temperature=0.0)


def grad_norm_is() -> Config:
    """Drawn in proportion to that length, and weighted so that the learn loss stays unbiased."""
    return by_learner("grad_norm_is", "grad_norm_is", importance_exponent=1.0)


def entropy() -> Config:
    """What the learner is most undecided about, whatever the label (uncertainty sampling)."""
    return by_learner("entropy", "entropy", temperature=0.0)


def conditional_entropy() -> Config:
    """The highest mean entropy of ten passes with dropout (Mindermann et al. 2022)."""
    return by_learner("conditional_entropy", "conditional_entropy", dropout=0.1, temperature=0.0)


def bald() -> Config:
    """What ten passes with dropout disagree about most (Houlsby et al. 2011)."""
    return by_learner("bald", "bald", dropout=0.1, temperature=0.0)


def loss_minus_conditional_entropy() -> Config:
    """Loss beyond the entropy of ten passes with dropout (Mindermann et al. 2022)."""
    name = "loss_minus_conditional_entropy"
    return by_learner(name, name, dropout=0.1, temperature=0.0)


def selective_backprop() -> Config:
    """Drawn in proportion to the percentile of the learner's loss (Jiang et al. 2019).

    A temperature of b / (B - b) is composer's power for that share; at rho = 2 it is 1.
    """
    return by_learner("selective_backprop", "selective_backprop")


def infobatch() -> Config:
    """Losses below the mean weigh half in the draw, which weights undo (after Qin et al. 2023).

    Without replacement they are drawn 0.61 times as often as the others at 128 to 64, not half.
    """
    return by_learner("infobatch", "infobatch", importance_exponent=1.0)


def irreducible() -> Config:
    """The held-out reference's lowest losses, the other half of RHO-LOSS."""
    return Config(recipe="irreducible").changed(
        select={"criterion": "easy", "temperature": 0.0},
        reference_training={"data": "holdout"},
        data={"holdout_fraction": 0.5},
    )


def boltzmann() -> Config:
    """RHO-LOSS drawn from a softmax at temperature 1/4, not the highest (its authors' code)."""
    return Config(recipe="boltzmann").changed(
        select={"criterion": "rho_loss", "temperature": 0.25},
        reference_training={"data": "holdout"},
        data={"holdout_fraction": 0.5},
    )


def rho_loss_halves() -> Config:
    """RHO-LOSS without a holdout: two references, each scores the half that it has not learned."""
    return Config(recipe="rho_loss_halves").changed(
        select={"criterion": "rho_loss", "temperature": 0.0},
        reference_training={"data": "halves"},
    )


def learnability_past() -> Config:
    """Learnability with the online model's own past as its reference, which costs no training."""
    return Config(recipe="learnability_past").changed(
        select={"criterion": "learnability"}, reference_training={"data": "past"}
    )


def by_learner(name: str, criterion: str, *, dropout: float = 0.0, **select: float) -> Config:
    """A recipe whose score the learner makes alone."""
    return Config(recipe=name).changed(
        select={"criterion": criterion, **select}, models={"dropout": dropout}
    )


COMPARED = (
    train_loss,
    grad_norm,
    grad_norm_is,
    entropy,
    conditional_entropy,
    bald,
    loss_minus_conditional_entropy,
    selective_backprop,
    infobatch,
    irreducible,
    boltzmann,
    rho_loss_halves,
    learnability_past,
)
"""The recipes here."""
