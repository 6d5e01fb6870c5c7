"""Recipes: the methods of the paper and the baselines they are held against, as configurations.

Each is the base configuration with a few fields changed; what is not listed is the same for all,
so that a comparison compares the method alone.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from superbatch.config import Config, Models
from superbatch.errors import ConfigError
from superbatch.recipes.compared import COMPARED


def uniform() -> Config:
    """No selection: every example that is drawn is learned from. The baseline."""
    return Config(recipe="uniform")


def rs2() -> Config:
    """A random half of each super-batch is learned from, the rest passes by (Okanovic et al.).

    The same cost as uniform; it sees the data twice as fast, as every selecting recipe does.
    """
    return Config(recipe="rs2")


def hard() -> Config:
    """Highest loss of the small online model (paper, eq. 1)."""
    return Config(recipe="hard").changed(select={"criterion": "hard"})


def easy_reference() -> Config:
    """Lowest loss of the small reference model, trained on the same data (paper, eq. 2)."""
    return Config(recipe="easy_reference").changed(select={"criterion": "easy"})


def rho_loss() -> Config:
    """The learner's own loss minus a held-out reference's, highest first (Mindermann et al.)."""
    return Config(recipe="rho_loss").changed(
        select={"criterion": "rho_loss", "temperature": 0.0},
        reference_training={"data": "holdout"},
        data={"holdout_fraction": 0.5},
    )


def classact() -> Config:
    """Learnability by two small models; the reference learned the same data before (eq. 3-4)."""
    return Config(recipe="classact").changed(select={"criterion": "learnability"})


def classact_ho() -> Config:
    """ClassAct with a reference trained on a held-out half (paper, table 1)."""
    return Config(recipe="classact_ho").changed(
        select={"criterion": "learnability"},
        reference_training={"data": "holdout"},
        data={"holdout_fraction": 0.5},
    )


def classact_online() -> Config:
    """ClassAct with a reference trained alongside, on 10 b uniform examples (section 4.4)."""
    return Config(recipe="classact_online").changed(
        select={"criterion": "learnability"}, reference_training={"data": "alongside"}
    )


def clip() -> Config:
    """Image and text by CLIP's softmax loss, uniform. The baseline of active_clip."""
    return pairs("clip", "softmax")


def siglip() -> Config:
    """Image and text by the sigmoid loss, uniform. The baseline of active_siglip and jest."""
    return pairs("siglip", "sigmoid")


def active_clip() -> Config:
    """Learnability of each pair by two small models' similarities (paper, section 3.4, eq. 7)."""
    return pairs("active_clip", "softmax").changed(select={"criterion": "learnability"})


def active_siglip() -> Config:
    """ActiveCLIP's choice of pairs for a learner with the sigmoid loss (paper, section 3.4)."""
    return pairs("active_siglip", "sigmoid").changed(select={"criterion": "learnability"})


def jest() -> Config:
    """The most learnable sub-batch, its pairs chosen together (Evans et al. 2024): the learner
    scores for itself and 80 % of what it sees is left out.
    """
    return pairs("jest", "sigmoid").changed(
        select={
            "criterion": "rho_loss",
            "joint": True,
            "super_batch_size": 320,
            "sub_batch_size": 64,
        }
    )


def flexi_jest() -> Config:
    """JEST that scores at a coarser patch; the learner learns at both (Evans et al. 2024)."""
    return jest().changed(recipe="flexi_jest", contrastive={"score_patch": 16})


def pairs(name: str, loss: str) -> Config:
    """What all recipes on images with captions share."""
    return Config(recipe=name).changed(
        task="image_text",
        contrastive={"loss": loss},
        models={"learner": "mu-300/8", "online": "mu-2400/8", "reference": "mu-2400/8"},
    )


RECIPES: Mapping[str, Callable[[], Config]] = MappingProxyType(
    {
        recipe.__name__: recipe
        for recipe in (
            uniform,
            rs2,
            hard,
            easy_reference,
            rho_loss,
            classact,
            classact_ho,
            classact_online,
            *COMPARED,
            clip,
            siglip,
            active_clip,
            active_siglip,
            jest,
            flexi_jest,
        )
    }
)
"""The recipes by name."""


def recipe(name: str) -> Config:
    """The configuration of recipe ``name``. Raises ``ConfigError`` with the nearest name."""
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}"
        raise ConfigError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]()


UNIFORM = ("uniform", "clip", "siglip")
"""The recipes without selection, one for each learn loss."""


BERT_MODELS = {"learner": "bert-mini", "online": "bert-tiny", "reference": "bert-tiny"}
"""The models of texts where none is named."""


def resolved(config: Config) -> Config:
    """``config`` as it will run: plain uniform training draws only what it learns from, and texts
    are read by models of texts. Raises ``ConfigError`` where plain uniform training is to choose.
    """
    if config.task == "text":
        named, unnamed = config.models.model_dump(), Models().model_dump()
        models = {role: bert for role, bert in BERT_MODELS.items() if named[role] == unnamed[role]}
        config = config.changed(models=models)
    if config.recipe in UNIFORM:
        if config.select.criterion != "uniform":
            raise ConfigError(
                f"recipe {config.recipe} learns all that it draws, and --select.criterion is "
                f"{config.select.criterion}; take a recipe that chooses, such as classact or hard"
            )
        b = config.select.sub_batch_size
        config = config.changed(select={"super_batch_size": b})
    return config
