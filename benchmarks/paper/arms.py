"""The arms that claims are made of: a preset and a data set give everything but the method."""

from dataclasses import dataclass

from paper.arm import Arm, Flags, Made
from paper.data import Data
from paper.settings import Preset


@dataclass(frozen=True)
class Bench:
    """Makes arms that differ in their method alone: one preset, one data set, one evaluation."""

    preset: Preset
    data: Data
    on: str = "test"

    @property
    def common(self) -> dict[str, str]:
        """Flags of every arm."""
        preset = self.preset
        return {
            **self.data.read(self.on),
            "models.learner": preset.learner,
            "select.sub-batch-size": str(preset.batch),
            "optimise.learning-rate": f"{preset.learning_rate:g}",
            "record.checkpoint-every": str(max(1, preset.steps // preset.checkpoints)),
            **preset.flags,
        }

    def uniform(self, name: str = "uniform", steps: int | None = None, **more: str) -> Arm:
        """No selection. Flags that it does not feel are not given, so that claims share its run."""
        return self._arm(name, "uniform", self.common | dotted(more), steps)

    def selecting(
        self,
        name: str,
        recipe: str,
        flags: Flags | None = None,
        *,
        actor: str = "",
        reference: str | None = None,
        steps: int | None = None,
        temperature: float | None = None,
        made: Made | None = None,
    ) -> Arm:
        """A recipe that scores rho * b examples a step, with ``actor`` as its small models.

        ``reference`` is what that learns: "clean", "pool" or a path; "given" where it learns
        nothing more, "" where there is none.
        """
        preset = self.preset
        reference_actor = actor or preset.reference_actor or preset.actor
        actor = actor or preset.actor
        scored = {
            "select.super-batch-size": str(preset.rho * preset.batch),
            "select.temperature": f"{preset.temperature if temperature is None else temperature:g}",
            **preset.scoring,
        }
        if recipe not in ("rho_loss", "easy_reference"):
            scored["models.online"] = actor
        chosen = preset.reference if reference is None else reference
        if chosen:
            scored["models.reference"] = reference_actor
        if chosen not in ("", "given"):
            if preset.reference_learning_rate is not None:
                rate = f"{preset.reference_learning_rate:g}"
                scored["reference-training.learning-rate"] = rate
            scored["reference-training.steps"] = str(preset.reference_steps)
        learned = self.data.clean if chosen == "clean" else chosen
        if learned not in ("", "given", "pool"):
            scored["reference-data"] = learned
        if recipe == "rho_loss" and chosen != "pool":
            scored["data.holdout-fraction"] = "0"  # its reference learns other data: none is kept
        return self._arm(name, recipe, self.common | scored | dict(flags or {}), steps, made, actor)

    def pair(self, name: str, recipe: str, reference: str = "") -> Arm:
        """Images with captions, at sizes of their own."""
        preset = self.preset
        learner, actor = preset.pair_models
        dropped = ("data.flip", "data.crop-padding")
        flags = {name: value for name, value in preset.flags.items() if name not in dropped}
        flags |= {**self.data.read(self.on), "models.learner": learner}
        own = dict(preset.pair_flags)
        steps = int(own.pop("steps"))
        if recipe == "clip":
            own = {
                name: value
                for name, value in own.items()
                if name not in ("select.super-batch-size", "reference-training.steps")
            }
        else:
            flags |= {"models.online": actor, "models.reference": actor}
        if reference:
            flags["reference-data"] = reference
        flags["record.checkpoint-every"] = str(max(1, steps // preset.checkpoints))
        return self._arm(name, recipe, flags | own, steps, None, actor)

    def as_it_is(self) -> list[str]:
        """What reads the data as it is, without augmentation."""
        size = {k: v for k, v in self.preset.flags.items() if k == "data.image-size"}
        flags = {**self.data.flags, **size}
        return [f"--{name}={value}" for name, value in flags.items() if name != "data.truth"]

    def _arm(
        self,
        name: str,
        recipe: str,
        flags: Flags,
        steps: int | None,
        made: Made | None = None,
        actor: str = "",
    ) -> Arm:
        return Arm(
            name,
            recipe,
            flags,
            steps or self.preset.steps,
            self.preset.evaluations,
            made,
            {"actor": actor} if actor else {},
            self.data.side if self.preset.paced else 0,
        )


def dotted(flags: Flags) -> dict[str, str]:
    """Flags that were given as Python names: ``data__path`` is ``data.path``."""
    return {name.replace("__", ".").replace("_", "-"): value for name, value in dict(flags).items()}
