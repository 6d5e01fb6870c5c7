"""Hugging Face ``transformers``: a ``Trainer`` that learns only from the chosen rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from superbatch.errors import CheckpointError
from superbatch.files import write_atomically
from superbatch.integrations.missing import missing
from superbatch.selector import Selector


try:
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise missing("transformers", "huggingface") from error


_STATE = "selector.pt"
"""The selector's state, in a checkpoint folder."""


class SelectingTrainer(Trainer):
    """``transformers.Trainer`` that also takes ``selector``.

    Another trainer is made one by ``class Mine(SelectingTrainer, Seq2SeqTrainer)``. Rows are chosen
    in ``get_batch_samples``, where the batches of one update are gathered and their items counted,
    so that losses are averaged over what was kept and a resumed run scores no batch that it skips.
    """

    def __init__(self, *args: Any, selector: Selector, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.selector = selector
        selector.to(self.args.device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **kwargs: Any
    ) -> Any:
        """The batches of one update, each with only its chosen rows."""
        chosen = map(self.selector.select, epoch_iterator)
        return super().get_batch_samples(chosen, num_batches, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The trainer's step; then the online model learns from the same rows."""
        learned = dict(inputs)  # compute_loss may take the labels out
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        self.selector.learn(learned)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's numbers, and beside its training loss those of the selection."""
        if "loss" in logs:
            logs.update({f"selection/{name}": x for name, x in self.selector.metrics.items()})
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The trainer's; into a checkpoint folder, the selector's state too.

        A callback would be too late: the trainer has removed older checkpoints before it is called.
        """
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self.args.should_save:
            write_atomically(Path(output_dir) / _STATE, self._write_state)  # one rank's serves all

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; the selector resumes with it."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        if folder:
            _resume(self.selector, Path(folder) / _STATE)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _write_state(self, path: Path) -> None:
        # Through Python's own file: given a path, torch forgets that the disk was full.
        with path.open("wb") as file:
            torch.save(self.selector.state_dict(), file)


def _resume(selector: Selector, file: Path) -> None:
    if not file.is_file():
        raise CheckpointError(
            f"{file} is not there, so the selection cannot go on where it stood: the checkpoint is "
            "of a run without a selector or was cut short; resume from another, or use Trainer"
        )
    selector.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
