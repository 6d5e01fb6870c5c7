"""The reference that does not learn in the loop: trained before, given, or a table of losses."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from superbatch.config import Config
from superbatch.errors import ConfigError
from superbatch.files import file_digest
from superbatch.passes import rows_at_once, traceless
from superbatch.problems import Problem
from superbatch.problems.weights import is_open_clip, weights_hash, weights_path
from superbatch.reference_run import TrainReference, trained_reference
from superbatch.run import RunFolder
from superbatch.sources import plain
from superbatch.surroundings import Surroundings
from superbatch.tables import LossTable, check_table, is_table
from superbatch.tables.check import verify_weights
from superbatch.types import Batch, View, size


@runtime_checkable
class AnyReference(Protocol):
    """A reference that the run does not train in its loop, wherever it comes from."""

    facts: dict[str, Any]
    model_to_price: nn.Module | None

    @property
    def runs(self) -> bool:
        """Whether a model runs to score with; a table only looks losses up."""
        ...

    @property
    def identity(self) -> str | None:
        """Tells one that is given from any other; none for one that the run makes itself."""
        ...

    def scored_on_demand(self) -> int:
        """How many examples a table lacked and a model had to score since this was last asked."""
        ...

    def ready(self, folder: RunFolder, around: Surroundings, train: TrainReference) -> bool:
        """Have it ready; whether it had to be trained."""
        ...

    def scored(
        self,
        function: Callable[[nn.Module, Batch], Any],
        through: Callable[[nn.Module], nn.Module],
    ) -> Callable[[Batch], Any]:
        """``function`` of the reference, seen ``through`` a view of it, without a trace."""
        ...

    def follow(self) -> None:
        """A step of the run is over."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What changes while the run goes on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...


class Reference:
    """The reference of one run. Until ``ready`` one that must be trained has no weights."""

    def __init__(
        self, config: Config, problem: Problem, device: torch.device, scored: View
    ) -> None:
        self._config = config
        self._problem = problem
        self._device = device
        self._model: nn.Module | None = None
        self._table: LossTable | None = None
        self.facts: dict[str, Any] = {}
        """What the summary says of it."""
        self._looked_up_in_vain = 0
        path = config.reference
        if path is None:
            self.model_to_price: nn.Module | None = problem.model("reference")
        elif is_table(path):
            self.model_to_price = self._open_table(path, scored)
        else:
            self.facts = {"checkpoint": path, "given": True}
            self.model_to_price = self._load(path)

    @property
    def runs(self) -> bool:
        """Whether a model runs to score with; a table only looks losses up."""
        return self._table is None

    @property
    def identity(self) -> str | None:
        """Tells one that is given from any other; none for one that the run trains itself."""
        path = self._config.reference
        if path is None:
            return None
        if self._table is not None:  # says the weights of what scores the rest, too
            return self._table.provenance.model_dump_json()
        return weights_hash(path) if is_open_clip(path) else file_digest(weights_path(path))

    def scored_on_demand(self) -> int:
        """How many examples a table lacked and a model had to score since this was last asked."""
        count, self._looked_up_in_vain = self._looked_up_in_vain, 0
        return count

    def count_on_demand(self, count: int) -> None:
        """Count what actors elsewhere had to score because the table lacked it."""
        self._looked_up_in_vain += count

    def ready(self, folder: RunFolder, around: Surroundings, train: TrainReference) -> bool:
        """Train it if it is not there yet; whether it was."""
        if self._model is not None or self._table is not None:
            return False
        self.facts = trained_reference(self._config, self._problem, folder, around, train)
        self._load(self.facts["checkpoint"])
        return True

    def scored(
        self,
        function: Callable[[nn.Module, Batch], Any],
        through: Callable[[nn.Module], nn.Module],
    ) -> Callable[[Batch], Any]:
        """``function`` of the reference, seen ``through`` a view of it, without a trace."""
        if self._table is not None:
            return self._table
        assert self._model is not None  # the run calls ready first
        return scored_through(self._config, through(self._model), function)

    def follow(self) -> None:
        """It is fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is on disk."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def _load(self, path: str) -> nn.Module:
        self._model = self._loaded(path)
        return self._model

    def _loaded(self, path: str) -> nn.Module:
        model = self._problem.load(path, "reference").to(self._device)
        return model.requires_grad_(False)

    def _open_table(self, path: str, scored: View) -> nn.Module | None:
        """Look losses up in ``path``; the model that scores what it lacks, where one is given."""
        refuse_unfit_for_tables(self._config, scored)
        self.facts = {"table": path, "given": True}
        checkpoint = self._config.reference_missing
        if checkpoint is None:
            self._table = LossTable.open(path)
            check_table(self._table, self._problem)
            return None
        model = self._loaded(checkpoint)
        losses = scored_through(self._config, model, self._problem.task.act_loss)

        def missing(batch: Batch) -> Any:
            self._looked_up_in_vain += size(batch)
            return losses(batch)

        self._table = LossTable.open(path, missing=missing)
        check_table(self._table, self._problem)
        verify_weights(self._table, weights_hash(checkpoint))
        return model


def scored_through(
    config: Config, model: nn.Module, function: Callable[[nn.Module, Batch], Any]
) -> Callable[[Batch], Any]:
    """``function`` of a frozen model, as the run of ``config`` has models run, without a trace."""
    settings = config.optimise
    return traceless(
        torch.compile(model) if settings.compile else model,  # type: ignore[arg-type]
        function,
        micro_batch_size=rows_at_once(settings.micro_batch_size, model),
        bf16=settings.bf16,
    )


def refuse_unfit_for_tables(config: Config, scored: View) -> None:
    """Raise ``ConfigError`` where losses that were computed once cannot stand for the model's."""
    if config.select.joint:
        raise ConfigError(
            f"--reference {config.reference} is a table of losses and joint selection needs the "
            "reference's embeddings; give its checkpoint"
        )
    if scored is not plain:
        raise ConfigError(
            f"--reference {config.reference} is a table of losses of images as they are, and "
            "scoring sees augmented ones; add --score-view plain"
        )
    if config.task == "image_text" and config.contrastive.act == "contrastive":
        raise ConfigError(
            f"--reference {config.reference} holds a loss for each pair, and with "
            "--contrastive.act contrastive a pair's loss depends on its super-batch; take dot"
        )
    if config.contrastive.score_patch is not None:
        raise ConfigError(
            f"--reference {config.reference} holds losses at the model's own patch, and "
            f"--contrastive.score-patch {config.contrastive.score_patch} scores at another; leave "
            "it out, or give the checkpoint"
        )
