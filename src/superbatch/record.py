"""Recorder: from steps to rows. Counts, and turns tensors to numbers only when a row is due."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from superbatch.actors import Scored
from superbatch.bank import Draw
from superbatch.loop import Step
from superbatch.run import RunFolder
from superbatch.selection import effective_sample_size, kept_gain
from superbatch.sources.duplicates import duplicates
from superbatch.types import ROLES, Batch, Role, size


class Recorder:
    """Keeps what was seen, learned and chosen, and writes choices to the run folder in parts.

    A part has a column ``measure/role`` for each of ``roles``, with what was asked of it, also
    where nothing was scored in its steps.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        rows: str,
        temperature: float,
        roles: Collection[Role],
        measure: str = "loss",
    ) -> None:
        self._folder = folder
        self._measure = measure
        self._roles = [f"{measure}/{role}" for role in ROLES if role in roles]
        self._rows = rows
        self._temperature = temperature
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self.examples_seen = 0
        self.examples_learned = 0
        self._leaving = 0
        """Duplicates left out of the super-batches of the step to come."""
        self._left_out = 0
        """The same of the last step."""
        # Sums stay tensors: reading one at every step would wait for the device.
        self._clean: dict[str, Tensor] = {}
        self._not_finite = torch.zeros((), dtype=torch.int64)

    def leave_out(self, duplicates: int) -> None:
        """Count ``duplicates`` that a super-batch of the step to come had before it was scored."""
        self._leaving += duplicates

    def add(self, step: Step) -> None:
        """Count a step and remember its choices until the next ``flush``."""
        self._left_out, self._leaving = self._leaving, 0
        self.examples_seen += sum(size(scored.examples) for scored in step.scored)
        self.examples_learned += size(step.draw.examples)
        for scored in step.scored:
            bad = (~torch.isfinite(scored.scores)).sum()
            self._not_finite = self._not_finite.to(bad.device) + bad
        seen = [("seen", scored.examples) for scored in step.scored]
        for name, batch in [*seen, ("chosen", step.draw.examples)]:
            right = known_right(batch)
            if right is not None:
                clean = right.sum()
                self._clean[name] = self._clean.get(name, torch.zeros_like(clean)) + clean
        if self._rows != "none":
            rows = choices(step, only_chosen=self._rows == "chosen", measure=self._measure)
            self._pending.append((step.number, rows))

    def row(self, step: Step) -> dict[str, float | int]:
        """The numbers of ``step``, the last that was added, for ``metrics.jsonl``."""
        scores, index = step.draw.scores, step.draw.index
        staleness = (step.number - 1 - step.draw.weights_step).double()
        ess = effective_sample_size(scores, temperature=self._temperature)
        numbers: dict[str, float | int] = {
            "step": step.number,
            "examples_seen": self.examples_seen,
            "examples_learned": self.examples_learned,
        }
        numbers |= {f"{role}/loss": float(loss) for role, loss in step.losses.items()}
        numbers |= {
            "selection/score_std": float(scores[torch.isfinite(scores)].std(correction=0)),
            "selection/effective_sample_size": float(ess),
            "selection/kept_gain": float(kept_gain(scores, index)),
            "selection/staleness": float(staleness.mean()),
            "selection/staleness_max": int(staleness.max()),
        }
        right = known_right(step.draw.examples)
        if right is not None:
            numbers["selection/clean_share"] = float(right.double().mean())
        pairs = [s.examples for s in step.scored if "image_id" in s.examples]
        if pairs:
            still = sum(int(duplicates(batch).sum()) for batch in pairs)
            numbers["selection/duplicates"] = still + self._left_out
        return numbers

    def flush(self) -> None:
        """Write the remembered choices as one part."""
        if not self._pending:
            return
        first, last = self._pending[0][0], self._pending[-1][0]
        steps = [np.full(len(rows["id"]), number) for number, rows in self._pending]
        columns: dict[str, Any] = {"step": np.concatenate(steps)}
        for name in ("id", "score", "chosen", *self._roles):
            parts = [column(rows, name).cpu().numpy() for _, rows in self._pending]
            columns[name] = np.concatenate(parts)
        self._folder.write_selection(first, last, columns)
        self._pending = []

    def selection_summary(self) -> dict[str, Any]:
        """Over the whole run: shares of clean labels where the truth is known, bad scores."""
        summary: dict[str, Any] = {"non_finite_scores": int(self._not_finite)}
        if self._clean:
            summary["clean_share"] = int(self._clean["chosen"]) / self.examples_learned
            summary["clean_share_pool"] = int(self._clean["seen"]) / self.examples_seen
        return summary

    def state_dict(self) -> dict[str, Any]:
        """The counts; remembered choices must have been flushed."""
        assert not self._pending
        return {
            "examples_seen": self.examples_seen,
            "examples_learned": self.examples_learned,
            "clean": dict(self._clean),
            "not_finite": self._not_finite,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from ``state``."""
        self.examples_seen = state["examples_seen"]
        self.examples_learned = state["examples_learned"]
        self._clean = dict(state["clean"])
        self._not_finite = state["not_finite"]


def choices(step: Step, *, only_chosen: bool, measure: str = "loss") -> dict[str, Tensor]:
    """One row per example scored in ``step``, and per older one that the bank gave.

    What each role said stands under ``measure/role``.
    """
    given = step.draw.examples["draw"]
    parts = [scored_rows(scored, given, measure) for scored in step.scored]
    here = torch.cat([scored.examples["draw"] for scored in step.scored] or [given[:0]])
    parts.append(older_rows(step.draw, ~torch.isin(given, here)))
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {name: torch.cat([column(part, name) for part in parts]) for name in names}
    if only_chosen:
        columns = {name: values[columns["chosen"]] for name, values in columns.items()}
    return columns


def scored_rows(scored: Scored, given: Int[Tensor, " b"], measure: str) -> dict[str, Tensor]:
    """One row per example of a super-batch; those whose draws are ``given`` were chosen."""
    chosen = torch.isin(scored.examples["draw"], given)
    columns = {"id": scored.examples["id"], "score": scored.scores, "chosen": chosen}
    said = {role: scored.losses[role] for role in ROLES if role in scored.losses}
    return columns | {f"{measure}/{role}": losses for role, losses in said.items()}


def older_rows(draw: Draw, older: Bool[Tensor, " b"]) -> dict[str, Tensor]:
    """One row per example that was drawn and scored before the step: what was said is not known."""
    columns = {"id": draw.examples["id"], "score": draw.scores[draw.index]}
    columns["chosen"] = torch.ones_like(older)
    return {name: values[older] for name, values in columns.items()}


def column(rows: Mapping[str, Tensor], name: str) -> Tensor:
    """The column ``name`` of ``rows``, NaN where they have none."""
    return rows.get(name, torch.full_like(rows["score"], torch.nan))


def known_right(batch: Batch) -> Bool[Tensor, " n"] | None:
    """Which labels, or captions, are the true ones; none where that is not known."""
    if "truth" in batch:
        return batch["label"] == batch["truth"]
    if "caption_of" in batch:
        return batch["caption_of"] == batch["image_id"]
    return None
