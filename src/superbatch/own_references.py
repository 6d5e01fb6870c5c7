"""References that need no other data: two that cross-fit, and the past of a model that learns."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superbatch.config import Config
from superbatch.learner import Learner
from superbatch.problems import Problem
from superbatch.reference_run import TrainReference, trained_reference
from superbatch.references import scored_through
from superbatch.run import RunFolder
from superbatch.seeds import derived_seed
from superbatch.sources.splits import in_first_half
from superbatch.surroundings import Surroundings
from superbatch.types import Batch, Role, size, take


class Halves:
    """Two references, each trained on half of the learner's data; an example is scored by the one
    that has not learned from it, so that nothing need be held out (Mindermann et al. 2022).

    Until ``ready`` they have no weights. An example costs one forward pass, as with one reference.
    """

    runs = True
    identity: str | None = None

    def __init__(self, config: Config, problem: Problem, device: torch.device) -> None:
        self._config = config
        self._problem = problem
        self._device = device
        self._models: list[nn.Module] = []
        self.model_to_price: nn.Module | None = problem.model("reference")
        self.facts: dict[str, Any] = {}

    def scored_on_demand(self) -> int:
        """None: no table lacks an example."""
        return 0

    def ready(self, folder: RunFolder, around: Surroundings, train: TrainReference) -> bool:
        """Train both if they are not there yet; what they cost is the sum."""
        both = [
            trained_reference(self._config, self._problem, folder, around, train, part=part)
            for part in ("first_half", "second_half")
        ]
        self._models = [
            self._problem.load(one["checkpoint"], "reference")
            .to(self._device)
            .requires_grad_(False)
            for one in both
        ]
        self.facts = {"halves": both, "recomputed": both[0]["recomputed"]} | {
            name: sum(one[name] for one in both) for name in ("examples_learned", "seconds")
        }
        return True

    def scored(
        self,
        function: Callable[[nn.Module, Batch], Any],
        through: Callable[[nn.Module], nn.Module],
    ) -> Callable[[Batch], Any]:
        """``function`` of the model that has not learned from an example, a number each."""
        first, second = (
            scored_through(self._config, through(model), function) for model in self._models
        )
        seed = derived_seed(self._config.data.seed, "halves")

        def run(batch: Batch) -> Float[Tensor, " n"]:
            learned_by_first = torch.from_numpy(in_first_half(batch["id"].cpu().numpy(), seed=seed))
            found = torch.zeros(size(batch), device=batch["id"].device)
            for rows, score in ((~learned_by_first, first), (learned_by_first, second)):
                place = rows.nonzero().squeeze(1).to(found.device)
                if len(place):
                    found[place] = score(take(batch, place)).float()
            return found

        return run

    def follow(self) -> None:
        """They are fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: their weights are in runs of their own."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Past:
    """A slow average of the weights of a model that learns, as its own reference.

    The score is then how much worse the model has become on an example than it was, or how much
    less it has improved than on others (after DISSect, arXiv 2507.12998, which keeps each example's
    past similarity). Nothing is trained for it; scoring costs one forward pass.
    """

    runs = True
    identity: str | None = None

    def __init__(self, config: Config, role: Role, learner: Learner) -> None:
        self._config = config
        self._learner = learner
        self._model = copy.deepcopy(learner.model).requires_grad_(False)
        self._decay = config.reference_training.past_decay
        self.model_to_price: nn.Module | None = self._model
        self.facts: dict[str, Any] = {"past_of": role, "decay": self._decay}

    def scored_on_demand(self) -> int:
        """None: no table lacks an example."""
        return 0

    def ready(self, folder: RunFolder, around: Surroundings, train: TrainReference) -> bool:
        """It always is."""
        return False

    def scored(
        self,
        function: Callable[[nn.Module, Batch], Any],
        through: Callable[[nn.Module], nn.Module],
    ) -> Callable[[Batch], Any]:
        """``function`` of the average, seen ``through`` a view of it, without a trace."""
        return scored_through(self._config, through(self._model), function)

    @torch.no_grad()
    def follow(self) -> None:
        """Move a little towards the model, after its update."""
        now = self._learner.model.state_dict()
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(now[name], 1 - self._decay)
            else:
                value.copy_(now[name])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return dict(self._model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from those of ``state``."""
        self._model.load_state_dict(state)
