"""Selector: selection in three lines of somebody else's loop."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from superbatch.criterion import Criterion, learnability
from superbatch.distributed import world
from superbatch.errors import ConfigError
from superbatch.seeds import generator
from superbatch.selector.auto_off import AutoOff, Watch
from superbatch.selector.choice import (
    Last,
    Selection,
    all_kept,
    check_kept,
    kept,
    kept_size,
    scored_rows,
    uniform_rows,
    weighted_alike,
)
from superbatch.selector.first import check_criterion, check_first, check_state
from superbatch.selector.lens import LossFunction, Precision, lens_of
from superbatch.selector.online import OnlineModel
from superbatch.selector.pytree import device_of, rows
from superbatch.selector.reading import Read, ids_of, usual_fields
from superbatch.selector.schedule import Plan, Schedule, Setting, Turn, check_known
from superbatch.selector.scorer import Scorer, Seer, bare, weighed
from superbatch.selector.stopwatch import SPENT, Stopwatch
from superbatch.tasks import Task


_KIND = "superbatch.Selector"
_OFF = {None: 0, "flat": 1, "slow": 2}


Scope = Literal["local", "global"]
"""Whether scores are shaped over the rows of each rank by itself, or over those of all ranks."""


class Selector:
    """Chooses which rows of each super-batch a loop learns from (paper, algorithm 1).

    ``task`` says what is lost on a row: a `Task`, which sees the fields that ``read`` finds in a
    super-batch, or a function ``(model, batch) -> Float[n]`` of the user's own structure, such as
    `per_example` makes. ``criterion`` says which of the models score. ``online`` learns in
    ``learn`` with ``optimizer`` (AdamW at 1e-3 if none is given); ``reference`` is a model trained
    before or a `LossTable`, which needs ids; ``learner`` is the model that the loop trains.

    ``filter_ratio`` of a super-batch is dropped, in [0, 1); ``temperature`` and
    ``importance_exponent`` are those of ``sample_indices`` and ``importance_weights``; each may be
    a `Ramp`. ``ids`` finds the ids in a super-batch; by itself the Selector finds ``id`` or
    ``ids``. ``micro_batch_size`` rows are scored at a time, 0: all at once. ``schedule`` says when
    scores choose (always, if none is given) and ``auto_off`` when to stop choosing for good;
    ``seed`` decides the draws and the online model's dropout; with ``bf16`` the online model learns
    and all score under autocast.

    On several ranks each has its own rows and keeps its share of them, as many as any other, and
    the online model's gradients are averaged. With ``selection`` "global" criteria that rank or
    average scores do so over the rows of all ranks, with "local" over each rank's own.

    Raises ``ConfigError`` for what cannot work together; what only a super-batch shows is refused
    at the first one.
    """

    def __init__(
        self,
        *,
        task: Task | LossFunction,
        filter_ratio: Setting,
        criterion: Criterion = learnability,
        online: nn.Module | None = None,
        reference: Seer | None = None,
        learner: nn.Module | None = None,
        temperature: Setting = 1.0,
        importance_exponent: Setting = 0.0,
        schedule: Schedule | None = None,
        auto_off: AutoOff | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        read: Read = usual_fields,
        ids: Callable[[Any], Any] | None = None,
        seed: int = 0,
        micro_batch_size: int = 0,
        bf16: bool = False,
        selection: Scope = "local",
    ) -> None:
        check_known("selection", selection, Scope)
        check_criterion(criterion)
        self.plan = Plan(filter_ratio, temperature, importance_exponent, schedule or Schedule())
        self._scorer = Scorer(
            criterion,
            lens_of(task, criterion.measure, read),
            weighed(criterion, learner=learner, online=online, reference=reference),
            Precision(micro_batch_size, bf16),
            together=selection == "global",
        )
        self._online: OnlineModel | None = None
        if online is not None and "online" in criterion.roles and not self.plan.keeps_all():
            self._online = OnlineModel(bare(online), optimizer, seed=seed)
        self._ids = ids
        self._seed = seed
        self._watch = Watch(auto_off)
        self._stopwatch = Stopwatch()
        self._looked = False
        self._last: Last | None = None
        self._online_loss: Tensor | None = None
        self.steps = 0
        """How many super-batches it has chosen from."""
        self.seen = 0
        """How many rows they had, on this rank."""
        self.kept = 0
        """How many of those were kept."""

    def select(self, super_batch: Any) -> Any:
        """The kept rows of ``super_batch`` in its own structure, in their order.

        The very same object where all rows are kept. Errors are those of ``pick``; with an
        importance exponent ``pick`` must be used, which gives the weights.
        """
        if self.plan.weighs:
            raise ConfigError(
                f"importance_exponent is {self.plan.exponent} and select gives no weights, so they "
                "would be lost; use selector.pick(super_batch) and weigh each loss by its .weights"
            )
        return self.pick(super_batch).batch

    def pick(self, super_batch: Any) -> Selection:
        """The kept rows with their places, ids, scores, probabilities and weights.

        Raises ``DataError`` for a super-batch whose columns have different lengths or that lacks
        ids for a table, and, at the first one, ``ConfigError`` for whatever cannot work.
        """
        self._stopwatch.turn()
        count = rows(super_batch)
        turn = self._turn()
        ids = ids_of(super_batch, count, self._ids)
        if not self._looked:
            self._look(super_batch, count, ids)
        picked = self._picked(super_batch, count, ids, turn)
        if self.plan.weighs and picked.weights is None:
            picked = weighted_alike(picked, device_of(super_batch))
        self.steps += 1
        self.seen += count
        self.kept += len(picked.index)
        self._last = Last(turn, picked.index, picked.scores)
        return picked

    def learn(self, batch: Any) -> Float[Tensor, ""] | None:
        """Let the online model take a step on ``batch``, kept rows or what ``pick`` gave.

        Its loss, detached; none where there is no online model that will score again. The global
        random state, gradient mode and autocast are the caller's own again after; for all ranks.
        """
        if self._online is None or self.off or not self.plan.chooses_by_score_after(self.steps):
            return None
        weights = batch.weights if isinstance(batch, Selection) else None
        kept = batch.batch if isinstance(batch, Selection) else batch
        lens, how = self._scorer.lens, self._scorer.how
        with self._stopwatch("learn", device_of(kept)):
            loss = self._online.step(
                lambda model: lens.learn_loss(model, kept, weights, how), lens.constrain
            )
        self._online_loss = loss
        return loss

    def to(self, device: torch.device | str) -> "Selector":
        """Move the online model, with its optimizer, and the reference; the learner is not ours."""
        for role in ("online", "reference"):
            model = self._scorer.models.get(role)
            if isinstance(model, nn.Module):
                model.to(device)
        if self._online is not None:
            self._online.to(device)
        return self

    @property
    def off(self) -> str | None:
        """Why scoring has stopped, if auto-off has stopped it."""
        return self._watch.off

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """That of the online model, for a schedule of its rate; none where none learns."""
        return self._online.optimizer if self._online else None

    @property
    def metrics(self) -> dict[str, float | int]:
        """Plain numbers of the run so far and of the last choice; reading waits for the device.

        ``steps``; ``seen`` and ``kept``, rows on this rank; ``off``, 0 while scores choose, 1 or 2
        once auto-off found them flat or slow; ``score_seconds``, ``learn_seconds`` and
        ``turn_seconds``, medians of the last 200 steps; ``online_loss``; of the last choice what
        `Last.metrics` says.
        """
        found: dict[str, float | int] = {"steps": self.steps, "seen": self.seen, "kept": self.kept}
        found["off"] = _OFF[self._watch.reason]
        for what in SPENT:
            found[f"{what}_seconds"] = self._stopwatch.median(what)
        if self._online_loss is not None:
            found["online_loss"] = float(self._online_loss)
        return found | (self._last.metrics() if self._last else {})

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later picks but the learner's weights: plain values and tensors.

        Draws are decided by seed, rank and step, so the state of one rank serves all.
        """
        return {
            "kind": _KIND,
            "seed": self._seed,
            "steps": self.steps,
            "seen": self.seen,
            "kept": self.kept,
            "expected_steps": self.plan.schedule.steps,
            "online": self._online.state_dict() if self._online else None,
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pick as the Selector that wrote ``state`` would have. ``CheckpointError`` for another."""
        check_state(state, kind=_KIND, seed=self._seed, learns=self._online is not None)
        if self._online is not None:
            self._online.load_state_dict(state["online"])
        self._watch.load_state_dict(state["watch"])
        self.steps, self.seen, self.kept = state["steps"], state["seen"], state["kept"]
        if state["expected_steps"] is not None:
            self.expect(state["expected_steps"])

    def expect(self, steps: int) -> None:
        """There will be ``steps`` super-batches, if the schedule does not say: fractions of it."""
        if self.plan.schedule.steps is None:
            self.plan = replace(self.plan, schedule=replace(self.plan.schedule, steps=steps))

    def kept_of(self, count: int) -> int:
        """How many rows the next super-batch would keep if it had ``count``."""
        turn = self._turn()
        return count if turn.rest == "all" else kept_size(count, turn.filter_ratio)

    def _turn(self) -> Turn:
        """The settings of the next step; where scoring is off, those of after its end."""
        turn = self.plan.at(self.steps)
        if self.off and turn.rest is None:
            return replace(turn, rest=self.plan.schedule.after)
        return turn

    def _look(self, super_batch: Any, count: int, ids: Int64[Tensor, " B"] | None) -> None:
        """Refuse what cannot work, and let replicas begin alike; for all ranks."""
        for ratio in self.plan.ratios():
            check_kept(count, ratio)
        if self._scorer.criterion.roles and not self.plan.keeps_all():
            check_first(self._scorer, super_batch, count, ids)
            if self._online is not None:
                self._online.follow_main()
        self._looked = True

    def _picked(
        self, super_batch: Any, count: int, ids: Int64[Tensor, " B"] | None, turn: Turn
    ) -> Selection:
        size = kept_size(count, turn.filter_ratio)
        if size == count or turn.rest == "all":
            return all_kept(super_batch, count, ids)
        chance = generator(self._seed, "selector", str(world()[0]), str(self.steps))
        if turn.rest == "uniform" or not self._scorer.criterion.roles:
            return kept(super_batch, uniform_rows(count, size, chance), ids)
        with self._stopwatch("score", device_of(super_batch)):
            found = self._scorer(super_batch, count, ids)
            choice = scored_rows(found.scores, size, turn.temperature, turn.exponent, chance)
            picked = kept(super_batch, choice, found.ids)
        self._watch.note(found.scores, choice.index)
        self._watch.look(self._stopwatch.median)
        return replace(picked, scores=found.scores, losses=found.losses)
