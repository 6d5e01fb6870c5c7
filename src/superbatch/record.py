"""Recorder: from steps to rows. Counts, and turns tensors to numbers only when a row is due."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from superbatch.loop import Step
from superbatch.run import RunFolder
from superbatch.selection import effective_sample_size, kept_gain
from superbatch.sources.duplicates import duplicates
from superbatch.types import ROLES, Batch, size


class Recorder:
    """Keeps what was seen, learned and chosen, and writes choices to the run folder in parts."""

    def __init__(
        self, folder: RunFolder, *, rows: str, temperature: float, measure: str = "loss"
    ) -> None:
        self._folder = folder
        self._measure = measure
        self._rows = rows
        self._temperature = temperature
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self.examples_seen = 0
        self.examples_learned = 0
        self.duplicates_removed = 0
        """From the last super-batch, before it was scored."""
        # Sums stay tensors: reading one at every step would wait for the device.
        self._clean: dict[str, Tensor] = {}
        self._not_finite = torch.zeros((), dtype=torch.int64)

    def add(self, step: Step) -> None:
        """Count a step and remember its choices until the next ``flush``."""
        self.examples_seen += size(step.scored.examples)
        self.examples_learned += size(step.draw.examples)
        bad = (~torch.isfinite(step.scored.scores)).sum()
        self._not_finite = self._not_finite.to(bad.device) + bad
        for name, batch in (("seen", step.scored.examples), ("chosen", step.draw.examples)):
            right = known_right(batch)
            if right is not None:
                clean = right.sum()
                self._clean[name] = self._clean.get(name, torch.zeros_like(clean)) + clean
        if self._rows != "none":
            rows = choices(step, only_chosen=self._rows == "chosen", measure=self._measure)
            self._pending.append((step.number, rows))

    def row(self, step: Step) -> dict[str, float | int]:
        """The numbers of ``step`` for ``metrics.jsonl``."""
        scores, index = step.draw.scores, step.draw.index
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
            "selection/staleness": float(
                (step.number - 1 - step.draw.weights_step).double().mean()
            ),
        }
        right = known_right(step.draw.examples)
        if right is not None:
            numbers["selection/clean_share"] = float(right.double().mean())
        if "image_id" in step.scored.examples:
            still = int(duplicates(step.scored.examples).sum())
            numbers["selection/duplicates"] = still + self.duplicates_removed
        return numbers

    def flush(self) -> None:
        """Write the remembered choices as one part."""
        if not self._pending:
            return
        first, last = self._pending[0][0], self._pending[-1][0]
        steps = [np.full(len(rows["id"]), number) for number, rows in self._pending]
        columns: dict[str, Any] = {"step": np.concatenate(steps)}
        for name in self._pending[0][1]:
            parts = [rows[name].cpu().numpy() for _, rows in self._pending]
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
    scored, draw = step.scored, step.draw
    here, given = scored.examples["draw"], draw.examples["draw"]
    chosen = torch.isin(here, given)
    columns = {"id": scored.examples["id"], "score": scored.scores, "chosen": chosen}
    columns |= {f"{measure}/{role}": scored.losses[role] for role in ROLES if role in scored.losses}
    if only_chosen:
        columns = {name: column[chosen] for name, column in columns.items()}
    if int(chosen.sum()) == len(given):
        return columns
    older = ~torch.isin(given, here)
    unknown = torch.full((int(older.sum()),), torch.nan, device=here.device)
    more = {
        "id": draw.examples["id"][older],
        "score": draw.scores[draw.index][older],
        "chosen": torch.ones_like(unknown, dtype=torch.bool),
    }
    return {name: torch.cat([column, more.get(name, unknown)]) for name, column in columns.items()}


def known_right(batch: Batch) -> Bool[Tensor, " n"] | None:
    """Which labels, or captions, are the true ones; none where that is not known."""
    if "truth" in batch:
        return batch["label"] == batch["truth"]
    if "caption_of" in batch:
        return batch["caption_of"] == batch["image_id"]
    return None
