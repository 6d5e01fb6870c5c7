"""What is written of a run while it goes on, and what it came to."""

from collections.abc import Callable
from typing import Any

from superbatch.build import criterion_of
from superbatch.chosen import Chosen
from superbatch.clock import Clock
from superbatch.config import Config
from superbatch.distributed import is_main
from superbatch.flops import Ledger
from superbatch.loop import Step
from superbatch.mirror import Mirror, nowhere, tensorboard
from superbatch.problems import Evaluation
from superbatch.record import Recorder
from superbatch.run import RunFolder
from superbatch.surroundings import Status
from superbatch.tables.fingerprint import HasIds
from superbatch.types import Metrics


class Logbook:
    """Writes the choices and the numbers of a run to its folder, and shows them who watches.

    What work cost is read from ``ledger`` and ``clock``, which others keep.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        examples: HasIds,
        *,
        ledger: Ledger,
        clock: Clock,
        watch: Callable[[Status], None],
    ) -> None:
        self._config = config
        self._folder = folder
        self._ledger = ledger
        self._clock = clock
        self._watch = watch
        criterion = criterion_of(config)
        self.recorder = Recorder(
            folder,
            rows=config.record.selection,
            temperature=config.select.temperature,
            roles=criterion.roles,
            measure=criterion.measure.name,
        )
        self._chosen = Chosen(folder, examples)
        self._mirror: Mirror = nowhere

    def open(self, *, after: int) -> None:
        """Show numbers in TensorBoard too, if so configured, from the step after ``after`` on.

        Raises ``ConfigError`` where that is not installed.
        """
        if self._config.record.tensorboard and is_main():
            self._mirror = tensorboard(self._folder.path / "tensorboard", after=after)

    def add(self, step: Step) -> None:
        """Count ``step`` and remember what it chose until the next ``flush``."""
        self.recorder.add(step)
        self._chosen.add(step)

    def log(self, step: Step, more: Metrics) -> None:
        """Write the numbers of ``step``, and ``more`` that only the run knows, as one row."""
        row = self.recorder.row(step)
        row["seconds"] = round(self.training_seconds(), 3)
        row["flops/paper"] = self._ledger.total("paper")
        row["flops/full"] = self._ledger.total("full")
        row |= more
        self._folder.append_metrics(row)
        self._mirror(step.number, row)
        self._watch(Status(self._config.recipe, step.number, self._config.steps, row))

    def flush(self) -> None:
        """Write what was chosen since this was last done, and have all on disk for a checkpoint."""
        self.recorder.flush()
        self._chosen.flush()
        self._folder.keep_metrics()

    def training_seconds(self) -> float:
        """Seconds so far, the reference's training included, evaluation left out."""
        return self._clock.total() - self._clock.seconds.get("evaluation", 0.0)

    def summary(self, result: Evaluation) -> dict[str, Any]:
        """What the run came to, with ``result`` as its last evaluation, and what it cost."""
        return {
            "recipe": self._config.recipe,
            "seed": self._config.seed,
            "steps": self._config.steps,
            "examples_seen": self.recorder.examples_seen,
            "examples_learned": self.recorder.examples_learned,
            "flops": {
                "paper": self._ledger.total("paper"),
                "full": self._ledger.total("full"),
                "by_role": self._ledger.by_role(),
            },
            "seconds": {"total": self._clock.total(), "by_phase": self._clock.state_dict()},
            "val": dict(result.summary),
            "selection": self.recorder.selection_summary(),
        }
