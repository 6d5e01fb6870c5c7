"""What ``superbatch score`` runs; imports torch, so it is loaded once the flags are good."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from superbatch import __version__
from superbatch.checkpoint import load_weights
from superbatch.cli.counting import counting
from superbatch.cli.score import Score
from superbatch.cli.score_work import Work
from superbatch.config import Config
from superbatch.errors import ConfigError, RunError
from superbatch.problems import Problem
from superbatch.problems.weights import is_open_clip, weights_hash, weights_path
from superbatch.scoring import Job, Parts, blocks_of, score, score_in_processes
from superbatch.tables import LossTable, Provenance, ScoredBy, TableFile, fingerprint, write_table
from superbatch.tables.check import (
    act_loss_of,
    check_data,
    image_size_of,
    preprocessing_of,
    recompute,
    unexplained,
)
from superbatch.tables.embeddings import embeddings_path, write_embeddings
from superbatch.tables.file import joined
from superbatch.tables.fingerprint import summed
from superbatch.tables.merge import check_alike, merged
from superbatch.tasks import Task
from superbatch.types import LossSource


SAMPLE = 256
"""Rows of a table to append to that are computed again, to see that it is of the same images."""


def scored(arguments: Score, command: Sequence[str]) -> dict[str, Any]:
    """Make the table, or find it made; what it holds."""
    work = Work.of(arguments)
    draft = provenance_of(work, command)
    out = Path(arguments.out)
    parts = Parts(out.with_name(f"{out.name}.parts"))
    if out.exists() and not parts.folder.exists():
        found = TableFile(out)
        if facts(found.provenance) != facts(draft) or not is_complete(found, work.problem):
            raise RunError(
                f"{out} is a table of other data or other models already; remove it, give another "
                "--out, or extend it to new data with --append"
            )
        parts.remove()
        return summary(out)
    if arguments.append:
        check_before(work, draft, Path(arguments.append))
    rows = work.rows()
    if len(rows) == 0:
        raise ConfigError(f"--append {arguments.append} covers all of {draft.data} already")
    parts.claim(
        facts(draft)
        | {
            "examples": fingerprint(work.problem.examples, rows),
            "batch_size": arguments.batch_size,
            "block_size": arguments.block_size,
            "embeddings": arguments.embeddings,
        }
    )
    with parts.alone():
        count = score_left(work, rows, parts)
        finish(work, parts, count, draft)
    return summary(out)


def score_left(work: Work, rows: np.ndarray, parts: Parts) -> int:
    """Score the blocks that are not there yet; how many there are in all."""
    arguments = work.arguments
    blocks = blocks_of(work.problem.examples.ids, rows, arguments.block_size)
    left = parts.left(len(blocks))
    done = len(rows) - sum(len(blocks[number]) for number in left)
    with counting("scoring", len(rows), done, quiet=arguments.json_) as progress:
        if not left:
            return len(blocks)
        if arguments.actors.kind == "inline":
            score(work.job(rows), parts, left, progress)
        elif arguments.actors.kind == "ray":
            from superbatch.scoring.cluster import score_on_ray  # needs the extra [ray]

            score_on_ray(
                partial(_job_of, arguments),
                parts,
                left,
                count=arguments.actors.count,
                progress=progress,
                settings=arguments.ray,
            )
        else:
            score_in_processes(
                partial(_job_of, arguments),
                parts,
                left,
                count=min(arguments.actors.count, len(left)),
                progress=progress,
            )
    return len(blocks)


def _job_of(arguments: Score) -> Job:
    work = Work.of(arguments)
    return work.job(work.rows())


def finish(work: Work, parts: Parts, count: int, draft: Provenance) -> None:
    """Write the table from its parts, and what it is appended to; then remove the parts."""
    out, columns = Path(work.arguments.out), list(draft.columns)
    totals = parts.totals(count, of=len(work.problem.examples.ids))
    if totals.rows == 0 and not work.arguments.append:
        again = f"; or remove {parts.folder} and try without --bf16" * work.arguments.bf16
        raise RunError(
            f"not one loss of {draft.data} is finite: {', '.join(work.checkpoints.values())} has "
            f"diverged; score with another checkpoint{again}"
        )
    update = {
        "fingerprint": totals.fingerprint,
        "skipped": totals.skipped + len(work.broken),
        "not_finite": totals.not_finite,
    }
    pieces = parts.pieces(count, columns)
    if work.arguments.append:
        before = TableFile(work.arguments.append)
        update["fingerprint"] = summed(totals.fingerprint, before.provenance.fingerprint)
        pieces = merged([pieces, before.pieces()])
    provenance = draft.model_copy(update=update)
    if work.arguments.embeddings:
        write_embeddings(embeddings_path(out), provenance, parts.tables(count))
    write_table(out, provenance, pieces)
    parts.remove()


def check_before(work: Work, draft: Provenance, path: Path) -> None:
    """Refuse to append to a table of other data, other images, or made otherwise."""
    file = TableFile(path)
    check_alike(str(path), file.provenance, "the new rows", draft)
    job = work.job(np.zeros(0, dtype=np.int64))
    for column in draft.columns:
        table = LossTable.open(path, column)
        check_data(table, work.problem.examples)
        recompute(
            table,
            work.problem.examples,
            losses_in(column, job),
            sample=SAMPLE,
            batch_size=work.arguments.batch_size,
            device=job.device,
        )


def losses_in(column: str, job: Job) -> LossSource:
    """What ``job`` measures in ``column``."""
    return lambda batch: job.measure(batch)[column]


def provenance_of(work: Work, command: Sequence[str]) -> Provenance:
    """What the table will say of itself, but for what only scoring tells."""
    examples = work.problem.examples
    return Provenance(
        data=work.config.data.path,
        fingerprint="",
        preprocessing=preprocessing_of(examples),
        image_size=image_size_of(examples),
        precision="bf16" if work.arguments.bf16 else "fp32",
        columns={
            name: scorer_of(path, work.config, work.problem.task, work.arguments.measure)
            for name, path in work.checkpoints.items()
        },
        library=__version__,
        command=tuple(command),
    )


def scorer_of(checkpoint: str, config: Config, task: Task, measure: str) -> ScoredBy:
    """What a column says of its model."""
    loss, scale = act_loss_of(task) if measure == "loss" else (measure, 1.0)
    if is_open_clip(checkpoint):
        model = checkpoint
    else:
        _, about = load_weights(weights_path(checkpoint))
        model = about.get("model", config.models.reference)
    return ScoredBy(
        model=model, checkpoint=checkpoint, weights=weights_hash(checkpoint), loss=loss, scale=scale
    )


def facts(provenance: Provenance) -> dict[str, Any]:
    """What decides the losses, as JSON values."""
    said: dict[str, Any] = {
        name: getattr(provenance, name)
        for name in ("preprocessing", "image_size", "view", "precision")
    }
    for name, scorer in provenance.columns.items():
        said[name] = f"{scorer.loss} x {scorer.scale:g} of weights {scorer.weights}"
    return said


def is_complete(file: TableFile, problem: Problem) -> bool:
    """Whether ``file`` has a row for every example, but for those it says it left out."""
    examples = problem.examples
    ids = joined(list(file.pieces(()))).ids
    covered = np.isin(examples.ids, ids)
    lacking = unexplained(file.provenance, examples, examples.ids[~covered])
    here = fingerprint(examples, np.flatnonzero(covered))
    return len(lacking) == 0 and here == file.provenance.fingerprint


def summary(out: Path) -> dict[str, Any]:
    """What was made, as JSON values."""
    file = TableFile(out)
    return {
        "table": str(out),
        "rows": len(file),
        "columns": list(file.columns),
        "skipped": file.provenance.skipped,
        "not_finite": file.provenance.not_finite,
        "fingerprint": file.provenance.fingerprint,
        "bytes_per_row": out.stat().st_size / len(file),
    }
