"""Hugging Face ``transformers``: a ``Trainer`` that learns only from the chosen rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from superbatch.errors import CheckpointError
from superbatch.integrations.missing import missing
from superbatch.selector import Selector


try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
    from transformers.training_args import TrainingArguments
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
        self.add_callback(_KeepState(selector))

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

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; the selector resumes with it."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        if folder:
            _resume(self.selector, Path(folder) / _STATE)
        return super().train(resume_from_checkpoint, *args, **kwargs)


class _KeepState(TrainerCallback):
    """Writes the selector's state into each checkpoint folder."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One rank's serves all."""
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            part = folder / f"{_STATE}.part"
            torch.save(self.selector.state_dict(), part)
            part.replace(folder / _STATE)


def _resume(selector: Selector, file: Path) -> None:
    if not file.is_file():
        raise CheckpointError(
            f"{file} is not there, so the selection cannot go on where it stood: the checkpoint is "
            "of a run without a selector or was cut short; resume from another, or use Trainer"
        )
    selector.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
