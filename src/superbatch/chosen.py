"""What a run chose, in few bytes: enough to learn from the same examples again, in the same order.

One row for each example that was learned from: the step, its id and its draw, which decides how it
was augmented. ``orders`` makes foundation curricula of it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from superbatch.errors import RunError
from superbatch.integers import read_about, read_integers
from superbatch.loop import Step
from superbatch.run import RunFolder, first_step, last_step
from superbatch.tables.fingerprint import HasIds, fingerprint


@final
class Chosen:
    """Remembers what each step chose and writes it to ``chosen/`` of the run folder in parts.

    It names the data, ``examples``, by their fingerprint (`superbatch.tables.fingerprint`).
    """

    def __init__(self, folder: RunFolder, examples: HasIds) -> None:
        self._folder = folder
        self._examples = examples
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: Step) -> None:
        """Remember what ``step`` learned from until the next ``flush``; nothing is waited for."""
        examples = step.draw.examples
        self._pending.append((step.number, examples["id"], examples["draw"]))

    def flush(self) -> None:
        """Write what is remembered as one part."""
        if not self._pending:
            return
        steps, ids, draws = zip(*self._pending, strict=True)
        columns = {
            "step": np.repeat(np.array(steps, dtype=np.int32), [len(part) for part in ids]),
            "id": torch.cat(ids).cpu().numpy(),
            "draw": torch.cat(draws).cpu().numpy(),
        }
        self._folder.write_chosen(steps[0], steps[-1], columns, fingerprint=self._fingerprint)
        self._pending = []

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._examples)


@dataclass(frozen=True, eq=False)
class Record:
    """What a run chose, one row an example, in the order in which it was learned."""

    steps: Int32[np.ndarray, " n"]
    ids: Int64[np.ndarray, " n"]
    draws: Int64[np.ndarray, " n"]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)


def read_chosen(folder: RunFolder) -> Record:
    """What the run in ``folder`` chose so far: up to its last checkpoint, or to its end.

    Raises ``RunError`` if there is no such record or steps are missing in it, ``DataError`` if it
    is broken.
    """
    parts = folder.parts("chosen")
    if not parts:
        raise RunError(
            f"{folder.path} has no record of what it chose (chosen/): no checkpoint was written "
            "yet, or an earlier version made the run; train it again"
        )
    wanted = 1
    for part in parts:
        if first_step(part) != wanted:
            raise RunError(
                f"{folder.path / 'chosen'} lacks steps {wanted} to {first_step(part) - 1}; "
                "restore the missing parts, or train the run again"
            )
        wanted = last_step(part) + 1
    columns = [read_integers(part, ("step", "id", "draw"), kind="record") for part in parts]
    step, ids, draw = (np.concatenate([part[name] for part in columns]) for name in columns[0])
    return Record(step, ids, draw, data_of(parts[0]))


def data_of(part: Path) -> str:
    """The fingerprint of the data that a ``part`` of ``chosen/`` is of; ``DataError`` if broken."""
    about = read_about(part, kind="record", fields=("fingerprint",))
    return str(about["fingerprint"])
