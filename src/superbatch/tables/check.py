"""Does a table belong here? To this data, this task, and these weights."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from superbatch.errors import DataError
from superbatch.tables.file import TableFile
from superbatch.tables.fingerprint import HasIds, fingerprint
from superbatch.tables.losses import LossTable
from superbatch.tables.named import list_origin
from superbatch.tables.provenance import Provenance
from superbatch.tasks import Classification, Task
from superbatch.tasks.contrastive import Contrastive
from superbatch.types import Batch, LossSource, size, to_device


@runtime_checkable
class Readable(HasIds, Protocol):
    """Examples with ids that can be read by row."""

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the examples that are known to be broken, so far."""
        ...

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``rows`` in that order, without those that are broken."""
        ...


@runtime_checkable
class Trained(Protocol):
    """What a table is to be used for: some rows of the data, and a task."""

    @property
    def examples(self) -> Readable:
        """The data."""
        ...

    @property
    def rows(self) -> Int64[np.ndarray, " rows"]:
        """The rows of it that are trained on."""
        ...

    @property
    def task(self) -> Task:
        """What losses are."""
        ...


def act_loss_of(task: Task) -> tuple[str, float]:
    """The name of the act loss of ``task``, and what it is multiplied by."""
    if isinstance(task, Classification):
        return "cross_entropy", 1.0
    if isinstance(task, Contrastive):
        return task.act, task.score_scale if task.act == "dot" else 1.0
    return type(task).__name__, 1.0


def preprocessing_of(examples: Readable) -> str:
    """What is done to an example before a model sees it, in words.

    Examples without images say it themselves.
    """
    side = image_size_of(examples)
    if side is None:
        return str(getattr(examples, "preprocessing", ""))
    said = f"images resized to {side} pixels a side, 0..255 brought to -1..1"
    context = getattr(examples, "context", None)
    return said if context is None else f"{said}; captions cut to {context} tokens"


def image_size_of(examples: Readable) -> int | None:
    """Side of the images in pixels; None where there are none."""
    shape: tuple[int, ...] | None = getattr(examples, "image_shape", None)
    return None if shape is None else shape[-1]


def check_table(table: LossTable, problem: Trained) -> None:
    """Refuse, with a ``DataError``, a table that cannot stand in for the reference's losses.

    That is one of other data or of another image size or context, of an augmented view, of another
    act loss or scale, or one that lacks examples which are trained on and that nothing else scores
    (see `unexplained`).
    """
    here = image_size_of(problem.examples)
    loss, scale = act_loss_of(problem.task)
    facts = {
        "images of so many pixels a side": (table.provenance.image_size, here),
        "the view": (table.provenance.view, "plain"),
        "the preprocessing": (
            f"'{table.provenance.preprocessing}'",
            f"'{preprocessing_of(problem.examples)}'",
        ),
        "the act loss": (table.scorer.loss, loss),
        "the loss's scale": (table.scorer.scale, scale),
    }
    for what, (theirs, ours) in facts.items():
        if theirs != ours:
            raise DataError(
                f"{table.path} was made with {what} {theirs} and is to be used with {ours}; "
                "score the data again, or change the setting back"
            )
    check_data(table, problem.examples)
    ids = problem.examples.ids[problem.rows]
    lacking = unexplained(table.provenance, problem.examples, ids[~table.has(ids)])
    if len(lacking) and table.missing is None:
        raise DataError(table.sentence(len(lacking), len(ids), int(lacking[0])))


def unexplained(
    provenance: Provenance, examples: Readable, absent: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " m"]:
    """Those of the ids ``absent`` from a table whose lack its provenance does not explain.

    Explained are examples that are known to be broken, and as many others as the table left out
    besides: which of them are broken may show only when they are read. One that is read after all
    is an error then (`LossTable`).
    """
    broken = np.array(sorted(examples.skipped), dtype=np.int64)
    others = absent[~np.isin(absent, broken)]
    return others if len(others) > max(0, provenance.left_out - len(broken)) else others[:0]


def check_data(table: LossTable, examples: HasIds) -> None:
    """Refuse a table unless each of its rows is of an example here, with the same label or caption.

    ``examples`` may hold more than the table does.
    """
    rows = np.flatnonzero(table.has(examples.ids))
    here = fingerprint(examples, rows)
    if here != table.provenance.fingerprint:
        raise DataError(
            f"{table.path} is a table of other data: its {len(table)} examples of "
            f"{table.provenance.data} have the fingerprint {table.provenance.fingerprint}, and the "
            f"{len(rows)} of them that are here have {here}; score this data with superbatch "
            "score, or give --data.path (and --data.label) as they were"
        )


def check_list(path: Path, examples: Readable) -> None:
    """Refuse, with a ``DataError``, a list of ids that says that it was made of other data.

    Nothing can be said of a list without a fingerprint, and of one made from a table that covers
    neither all examples here nor all but those that are known to be broken.
    """
    origin = list_origin(path)
    if origin is None:
        return
    whole = np.flatnonzero(~np.isin(examples.ids, np.array(sorted(examples.skipped), np.int64)))
    for rows in (np.arange(len(examples.ids)), whole):
        if len(rows) == origin.examples:
            here = fingerprint(examples, rows)
            if here == origin.fingerprint:
                return
            raise DataError(
                f"{path} is a list of other data: it was made of a table of {origin.examples} "
                f"examples with the fingerprint {origin.fingerprint}, and those here have {here}; "
                "make it from a table of this data"
            )


def verify_file(file: TableFile) -> None:
    """Read all of ``file``. Raises ``DataError`` for damage, disorder or losses not finite."""
    for _ in file.pieces():
        pass


def verify_weights(table: LossTable, weights: str) -> None:
    """Raise ``DataError`` unless ``weights`` (SHA-256) are those that the table was made with."""
    if weights != table.scorer.weights:
        raise DataError(
            f"column '{table.column}' of {table.path} was made with the weights "
            f"{table.scorer.weights[:16]}... ({table.scorer.checkpoint}) and the model given has "
            f"{weights[:16]}...; give the checkpoint it was made with"
        )


def recompute(
    table: LossTable,
    examples: Readable,
    losses: LossSource,
    *,
    sample: int,
    batch_size: int,
    device: torch.device,
    tolerance: float | None = None,
    seed: int = 0,
) -> tuple[int, float]:
    """Compute the losses of ``sample`` random rows again: how many, and the largest difference.

    Raises ``DataError`` where ``|table - loss| > tolerance * (1 + |loss|)`` for one of them. The
    tolerance is 1e-3 where none is given, 5e-2 for bf16 towers.
    """
    allowed = tolerance or (5e-2 if table.provenance.precision == "bf16" else 1e-3)
    covered = np.flatnonzero(table.has(examples.ids))
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(covered, size=min(sample, len(covered)), replace=False))
    count, largest, wrong = 0, 0.0, 0
    worst: tuple[int, float, float] | None = None
    for start in range(0, len(rows), batch_size):
        batch = to_device(examples.read(rows[start : start + batch_size]), device)
        if size(batch) == 0:
            continue
        theirs, ours = table(batch).double(), losses(batch).double()
        difference = (theirs - ours).abs()
        bad = ~(difference <= allowed * (1 + ours.abs()))
        count, wrong = count + size(batch), wrong + int(bad.sum())
        place = int(difference.argmax())
        if worst is None or float(difference[place]) > largest:
            largest = float(difference[place])
            worst = (int(batch["id"][place]), float(theirs[place]), float(ours[place]))
    if wrong and worst is not None:
        raise DataError(
            f"{wrong} of {count} losses of column '{table.column}' of {table.path} are not those "
            f"of the model: id {worst[0]} has {worst[1]:.6g} in the table and {worst[2]:.6g} "
            f"now (tolerance {allowed:g}); the images, the settings or the ids are not those it "
            "was made with, so score the data again"
        )
    return count, largest
