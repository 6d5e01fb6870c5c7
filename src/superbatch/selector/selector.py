"""Selector: selection in three lines of somebody else's loop."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from superbatch.criterion import Criterion, learnability
from superbatch.distributed import world
from superbatch.errors import CheckpointError, ConfigError
from superbatch.seeds import generator
from superbatch.selection import effective_sample_size, kept_gain
from superbatch.selector.auto_off import SPENT, AutoOff, Reason, Stopwatch, Watch
from superbatch.selector.choice import (
    Choice,
    Selection,
    all_rows,
    check_kept,
    kept_size,
    scored_rows,
    uniform_rows,
)
from superbatch.selector.first import check_first
from superbatch.selector.lens import LossFunction, Precision, lens_of
from superbatch.selector.online import OnlineModel
from superbatch.selector.pytree import device_of, rows, take_rows
from superbatch.selector.reading import Read, named_ids, usual_fields, usual_ids
from superbatch.selector.schedule import Plan, Schedule, Setting, Turn
from superbatch.selector.scorer import Scorer, Seer, bare
from superbatch.tables import LossTable
from superbatch.tasks import Task
from superbatch.types import Role


_LOG = logging.getLogger("superbatch.selector")
_KIND = "superbatch.Selector"
_OFF: Mapping[Reason | None, int] = {None: 0, "flat": 1, "slow": 2}


class Selector:
    """Chooses which rows of each super-batch a loop learns from (paper, algorithm 1).

    ``task`` says what is lost on a row: a `Task`, which sees the fields that ``read`` finds in a
    super-batch, or a function ``(model, batch) -> Float[n]`` of the user's own structure, such as
    `per_example` makes. ``criterion`` says which of the models score. ``online`` learns in
    ``learn`` with ``optimizer`` (AdamW at 1e-3 if none is given); ``reference`` is a model trained
    before or a `LossTable`, which needs ids; ``learner`` is the model that the loop trains.

    ``filter_ratio`` of a super-batch is dropped, in [0, 1); ``temperature`` and
    ``importance_exponent`` are those of ``sample_indices`` and ``importance_weights``. Each may be
    a `Ramp`. ``ids`` finds the ids in a super-batch; by itself the Selector finds ``id`` or
    ``ids``. ``micro_batch_size`` rows are scored at a time, 0: all at once.

    On several ranks each has its own rows and keeps its share of them, as many as any other; the
    online model's gradients are averaged. ``selection`` "global" shapes scores (criteria that look
    at ranks or means of scores) over the rows of all ranks, "local" over each rank's own.

    The first super-batch is looked at closely; what cannot work is a ``ConfigError`` or
    ``DataError`` then, not later.
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
        selection: Literal["local", "global"] = "local",
    ) -> None:
        given: dict[Role, Seer | None] = {
            "learner": learner,
            "online": online,
            "reference": reference,
        }
        models = {role: model for role, model in given.items() if model is not None}
        for role in sorted(criterion.roles - set(models)):
            raise ConfigError(
                f"this criterion weighs the losses of the {role} model and none was given; give "
                f"Selector({role}=...), or take another criterion"
            )
        self.plan = Plan(filter_ratio, temperature, importance_exponent, schedule or Schedule())
        self.plan.at(0)
        self._scorer = Scorer(
            criterion,
            lens_of(task, criterion.measure, read),
            models,
            Precision(micro_batch_size, bf16),
            together=selection == "global",
        )
        self._online: OnlineModel | None = None
        if online is not None and "online" in criterion.roles and not self.plan.keeps_all():
            self._online = OnlineModel(bare(online), optimizer, seed=seed)
        self._ids = ids
        self._seed = seed
        self._watch = Watch(auto_off) if auto_off and criterion.roles else None
        self._stopwatch = Stopwatch()
        self._checked = False
        self._last: tuple[Turn, Selection] | None = None
        self.steps = 0
        """How many super-batches it has chosen from."""
        self.seen = 0
        """How many rows they had, on this rank."""
        self.kept = 0
        """How many of those were kept."""
        self.off: str | None = None
        """Why it has stopped scoring, if auto-off has stopped it."""
        self._off: Reason | None = None
        self._online_loss: Tensor | None = None

    def select(self, super_batch: Any) -> Any:
        """The kept rows of ``super_batch`` in its own structure, in their order.

        The very same object where all rows are kept. Errors are those of ``pick``; with an
        importance exponent ``pick`` must be used, which gives the weights.
        """
        if self.plan.exponent != 0:
            raise ConfigError(
                f"importance_exponent is {self.plan.exponent} and select gives no weights, so they "
                "would be lost; use selector.pick(super_batch) and weigh each loss by its .weights"
            )
        return self.pick(super_batch).batch

    def pick(self, super_batch: Any) -> Selection:
        """The kept rows with their places, ids, scores, probabilities and weights.

        Raises ``DataError`` for a super-batch whose columns have different lengths, or without the
        ids that a table needs, and whatever the first look finds.
        """
        self._stopwatch.turn()
        count = rows(super_batch)
        ids, has_ids = self._find_ids(super_batch, count)
        turn = self._turn(count)
        if not self._checked:
            self._look(super_batch, ids, has_ids)
        picked = self._picked(super_batch, ids, turn)
        if not has_ids:
            picked = replace(picked, ids=None)
        self.steps += 1
        self.seen += count
        self.kept += len(picked.index)
        self._last = turn, picked
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

        def loss(model: nn.Module) -> Float[Tensor, ""]:
            with how(kept):
                return lens.learn_loss(model, kept, weights)

        with self._stopwatch("learn", device_of(kept)):
            self._online_loss = self._online.step(loss)
        return self._online_loss

    def to(self, device: torch.device | str) -> "Selector":
        """Move the online model, with its optimizer, and the reference; the learner is the loop's."""
        for role in ("online", "reference"):
            model = self._scorer.models.get(role)
            if isinstance(model, nn.Module):
                model.to(device)
        if self._online is not None:
            self._online.to(device)
        return self

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """That of the online model, for a schedule of its rate; none where none learns."""
        return self._online.optimizer if self._online else None

    @property
    def metrics(self) -> dict[str, float]:
        """Plain numbers of the run so far and of the last choice; reading waits for the device.

        ``steps``; ``seen`` and ``kept``, rows on this rank; ``off``, 0 while scores choose, 1 or 2
        once auto-off found them flat or slow; median ``score_seconds``, ``learn_seconds`` and
        ``turn_seconds`` of the last 200 steps; of the last choice ``filter_ratio``,
        ``temperature``, ``kept_gain``, ``effective_sample_size``, ``score_std`` and ``not_finite``
        (scores that are never chosen); ``online_loss``.
        """
        found: dict[str, float] = {
            "steps": self.steps,
            "seen": self.seen,
            "kept": self.kept,
            "off": _OFF[self._off],
        }
        for what in SPENT:
            found[f"{what}_seconds"] = self._stopwatch.median(what)
        if self._last is not None:
            found |= _of_choice(*self._last)
        if self._online_loss is not None:
            found["online_loss"] = float(self._online_loss)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later picks but the learner's weights: plain values and tensors.

        The same on every rank but for the counters, so the state of any rank serves all.
        """
        return {
            "kind": _KIND,
            "seed": self._seed,
            "steps": self.steps,
            "seen": self.seen,
            "kept": self.kept,
            "off": self.off,
            "reason": self._off,
            "schedule_steps": self.plan.schedule.steps,
            "online": self._online.state_dict() if self._online else None,
            "watch": self._watch.state_dict() if self._watch else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pick as the Selector that wrote ``state`` would have. ``CheckpointError`` for another."""
        if state.get("kind") != _KIND:
            raise CheckpointError(
                f"this is not the state of a Selector: it has {', '.join(map(str, state))[:200]}; "
                "give what selector.state_dict() gave"
            )
        if state["seed"] != self._seed:
            raise CheckpointError(
                f"the state is of a Selector with seed {state['seed']} and this one has seed "
                f"{self._seed}, so it would pick other rows; give it the same seed"
            )
        if (state["online"] is None) != (self._online is None):
            has, lacks = ("this one", "the other") if self._online else ("the other", "this one")
            raise CheckpointError(
                f"the state is of another kind of Selector: {has} has an online model that learns "
                f"and {lacks} has none; give the same criterion, online model and filter ratio"
            )
        if self._online is not None:
            self._online.load_state_dict(state["online"])
        if self._watch is not None and state["watch"] is not None:
            self._watch.load_state_dict(state["watch"])
        self.steps, self.seen, self.kept = state["steps"], state["seen"], state["kept"]
        self.off, self._off = state["off"], state["reason"]

    def expect(self, steps: int) -> None:
        """There will be ``steps`` super-batches: what fractions in schedules are of."""
        if self.plan.schedule.steps is None:
            self.plan = replace(self.plan, schedule=replace(self.plan.schedule, steps=steps))

    def kept_of(self, count: int) -> int:
        """How many rows the next super-batch would keep if it had ``count``."""
        turn = self._turn(count)
        return count if turn.rest == "all" else kept_size(count, turn.filter_ratio)

    def _turn(self, count: int) -> Turn:
        """The settings of the next step; where scoring is off, those of after its end."""
        turn = self.plan.at(self.steps)
        if self.off and turn.rest is None:
            return replace(turn, rest=self.plan.schedule.after)
        return turn

    def _find_ids(self, super_batch: Any, count: int) -> tuple[Int64[Tensor, " B"], bool]:
        """Ids of the rows, and whether the super-batch has any; else their places in the run."""
        if self._ids is not None:
            return named_ids(self._ids, super_batch, count), True
        ids = usual_ids(super_batch)
        if ids is None or len(ids) != count:
            return torch.arange(self.seen, self.seen + count), False
        return ids, True

    def _look(self, super_batch: Any, ids: Int64[Tensor, " B"], has_ids: bool) -> None:
        """The first look: refuse what cannot work, and let replicas begin alike; for all ranks."""
        for ratio in self.plan.ratios():
            check_kept(len(ids), ratio)
        if self._scorer.criterion.roles and not self.plan.keeps_all():
            check_first(self._scorer, super_batch, ids, has_ids=has_ids)
            if self._online is not None:
                self._online.follow_main()
        self._checked = True

    def _picked(self, super_batch: Any, ids: Int64[Tensor, " B"], turn: Turn) -> Selection:
        count = len(ids)
        size = kept_size(count, turn.filter_ratio)
        if size == count or turn.rest == "all":
            every = all_rows(count)
            return Selection(super_batch, every.index, every.probabilities, ids)
        chance = generator(self._seed, "selector", str(world()[0]), str(self.steps))
        if turn.rest == "uniform" or not self._scorer.criterion.roles:
            return _kept(super_batch, ids, uniform_rows(count, size, chance))
        with self._stopwatch("score", device_of(super_batch)):
            scores, losses = self._scorer(super_batch, ids)
        choice = scored_rows(
            scores,
            size,
            temperature=turn.temperature,
            exponent=turn.exponent,
            generator=chance,
        )
        if self._watch is not None:
            self._watch.note(kept_gain(scores, choice.index), chosen=size, of=count)
            self._consider(self._watch)
        return replace(_kept(super_batch, ids, choice), scores=scores, losses=losses)

    def _consider(self, watch: Watch) -> None:
        """Stop scoring where the watch says that it cannot pay."""
        verdict = watch.look({what: self._stopwatch.median(what) for what in SPENT})
        if verdict is not None:
            self._off, why = verdict
            self.off = f"scoring stops after {self.steps + 1} super-batches: {why}"
            if world()[0] == 0:
                _LOG.warning(self.off)


def _kept(super_batch: Any, ids: Int64[Tensor, " B"], choice: Choice) -> Selection:
    index = choice.index
    kept_ids = ids[index.to(ids.device)]
    batch = take_rows(super_batch, index)
    return Selection(batch, index, choice.probabilities, kept_ids, weights=choice.weights)


def _of_choice(turn: Turn, picked: Selection) -> dict[str, float]:
    found = {"filter_ratio": turn.filter_ratio, "temperature": turn.temperature}
    if picked.scores is None:
        return found
    finite = picked.scores[torch.isfinite(picked.scores)]
    size = effective_sample_size(picked.scores, temperature=turn.temperature)
    return found | {
        "kept_gain": float(kept_gain(picked.scores, picked.index)),
        "effective_sample_size": float(size),
        "score_std": float(finite.std(correction=0)),
        "not_finite": len(picked.scores) - len(finite),
    }
