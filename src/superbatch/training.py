"""One run, from configuration to summary: build, loop, record, evaluate, checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superbatch import build, feed
from superbatch.actors import Actors
from superbatch.actors.alone import Course
from superbatch.actors.gathered import (
    Gathered,
    Renewal,
    Shares,
    travelling,
    without_duplicates,
)
from superbatch.actors.inline import InlineActor
from superbatch.actors.news import Found
from superbatch.actors.remote import RemoteActors
from superbatch.actors.scorers import Scorer
from superbatch.checkpoint import save_weights
from superbatch.checks import check
from superbatch.clock import Clock
from superbatch.config import Config, config_of_run
from superbatch.courses import course_of
from superbatch.devices import pick_device
from superbatch.distributed import (
    any_rank,
    counts,
    from_main,
    gather_rows,
    is_main,
    united,
    world,
)
from superbatch.enlist import device_elsewhere, remote_actors, scores_elsewhere
from superbatch.environment import environment
from superbatch.errors import Stopped
from superbatch.flops import Ledger
from superbatch.logbook import Logbook
from superbatch.loop import Step, train
from superbatch.places import check_ranks
from superbatch.problems import Evaluation, Problem, problem_of
from superbatch.recipes import resolved
from superbatch.references import AnyReference, Reference
from superbatch.run import RunFolder, taken
from superbatch.seeds import derived_seed
from superbatch.selection import rank_correlation
from superbatch.sources.open import opened_once
from superbatch.state import State
from superbatch.surroundings import Surroundings
from superbatch.types import Batch, Metrics, Role, small_fields, to_device


def run_folder(config: Config) -> Path:
    """Where the run of ``config`` is written."""
    return Path(config.out or f"runs/{config.recipe}-seed{config.seed}")


@opened_once()
def start(config: Config, around: Surroundings | None = None) -> dict[str, Any]:
    """Run ``config`` in a new folder; the summary. Raises ``SuperbatchError``."""
    around = around or Surroundings()
    config = resolved(config)
    check(config)
    check_ranks(config, world()[1])
    folder = RunFolder(run_folder(config), writes=is_main())
    from_main(folder.refuse_taken)
    # All that can be refused is refused before anything is written.
    run = Run(config, problem_of(config, around.reading), folder, around)
    facts = config.model_dump(mode="json"), environment(around.command, run.device)
    from_main(lambda: folder.create(*facts))
    with taken(folder, config.ranks.timeout_seconds):
        return run.finish()


@opened_once()
def resume(path: Path, around: Surroundings | None = None) -> dict[str, Any]:
    """Continue the run in ``path`` from its newest checkpoint; the summary."""
    folder = RunFolder.open(path, writes=is_main())
    summary: dict[str, Any] | None = from_main(folder.summary)
    if summary is not None:
        return summary
    around = around or Surroundings()
    config = config_of_run(from_main(folder.config), path)
    check_ranks(config, world()[1])
    with taken(folder, config.ranks.timeout_seconds):
        run = Run(config, problem_of(config, around.reading), folder, around)
        facts = environment(around.command, run.device)
        from_main(lambda: folder.describe(facts))
        return run.finish()


def start_or_resume(config: Config, around: Surroundings) -> dict[str, Any]:
    """Run ``config``, from where it had come to if its folder has it already; the summary."""
    path = run_folder(config)
    if from_main((path / "config.json").is_file):
        return resume(path, around)
    return start(config, around)


class Run:
    """The parts of one run. ``finish`` runs what is left of it."""

    def __init__(
        self, config: Config, problem: Problem, folder: RunFolder, around: Surroundings
    ) -> None:
        self.config = config
        self.problem = problem
        self.folder = folder
        self.around = around
        self.device = pick_device(config.device)
        if config.actors.kind != "inline":
            device_elsewhere(config)  # refused before a reference is trained for it
        self.clock = Clock(self.device)
        scored = feed.scored_view_of(config)
        self.stream = feed.stream_of(config, problem, config.select.super_batch_size, scored)
        feed.refuse_unlike_ranks(self.stream)
        self.criterion = build.criterion_of(config)
        self.trained = {
            role: build.learner_of(config, role, problem, self.device)
            for role in build.learning_roles(config)
        }
        self.reference = build.reference_of(config, problem, self.trained, self.device, scored)
        prices = build.prices_of(config, problem, self.trained, self.reference)
        self.ledger = Ledger(prices, planned=config.steps * config.select.sub_batch_size)
        self.logbook = Logbook(
            config,
            folder,
            problem.examples,
            ledger=self.ledger,
            clock=self.clock,
            watch=around.watch,
        )
        self.shares = Shares(self._read)
        self.bank = build.bank_of(config, self._score_again, self.device)
        self.learn_view = feed.learn_view_of(config)
        self.actors: Actors | None = None
        self.scores_elsewhere = scores_elsewhere(config)
        self.uniform = {
            role: feed.reference_stream_of(config, problem) for role in build.learning_alone(config)
        }
        self.alone: dict[Role, Course] = {}
        self.result: Evaluation | None = None

    @cached_property
    def state(self) -> State:
        """All of it that has state."""
        return State(
            folder=self.folder,
            device=self.device,
            trained=self.trained,
            reference=self.reference,
            bank=self.bank,
            stream=self.stream,
            uniform=self.uniform,
            ledger=self.ledger,
            recorder=self.logbook.recorder,
            clock=self.clock,
        )

    def finish(self) -> dict[str, Any]:
        """Run from the newest checkpoint (or the start) to the end; the summary."""
        if self.reference is not None:
            self._count_reference(self.reference)
        rank, _ = world()
        torch.manual_seed(derived_seed(self.config.seed, "global", *([str(rank)] if rank else [])))
        first, self.result = self.state.restore(self._examples_of)
        self.logbook.open(after=first)
        with ExitStack() as stack:
            self.actors = stack.enter_context(closing(self._actors(first)))
            for role, stream in self.uniform.items():
                course = course_of(self.config, role, self.trained[role], stream, first, self.clock)
                self.alone[role] = stack.enter_context(closing(course))
            for step in self._turns(self.actors, first):
                self._after(step)
        return self._conclude()

    def _actors(self, first: int) -> Actors:
        """Who scores what comes after step ``first``."""
        if self.scores_elsewhere:
            return remote_actors(
                self.config,
                self.stream,
                self.trained,
                self.reference,
                step=first,
                arrived=self._arrived,
                clock=self.clock,
            )
        distinct = self.config.data.deduplicate
        return InlineActor(
            map(self._without_duplicates, self.stream) if distinct else self.stream,
            self.scorer,
            device=self.device,
            clock=self.clock,
            step=first,
        )

    def _arrived(self, found: Found) -> None:
        """What was read and scored elsewhere is accounted for as if it had been here."""
        self.stream.handed_out(found.skipped)
        self.logbook.recorder.leave_out(found.duplicates)
        if isinstance(self.reference, Reference):
            self.reference.count_on_demand(found.looked_up_in_vain)

    def _turns(self, actors: Actors, first: int) -> Iterator[Step]:
        looks_up = self.reference is not None and not self.reference.runs
        return train(
            Gathered(actors, self.criterion, self.shares),
            self.bank,
            self.trained,
            self.ledger,
            steps=range(first + 1, self.config.steps + 1),
            sub_batch_size=self.config.select.sub_batch_size,
            roles=self.criterion.roles - ({"reference"} if looks_up else set()),
            learn_view=self._shown,
            alone=self.alone,
            clock=self.clock,
            ready=self._ready,
        )

    def _ready(self) -> bool:
        """Whether a super-batch is there already; never on several ranks, which would differ."""
        actors = self.actors
        return isinstance(actors, RemoteActors) and world()[1] == 1 and actors.ready()

    @cached_property
    def scorer(self) -> Scorer:
        """What turns a super-batch into scores, once the reference is ready."""
        return build.scorer_of(self.config, self.problem, self.trained, self.reference)

    def _score_again(self, held: Batch) -> Float[Tensor, " n"]:
        """New scores for examples in the bank, no more at once than this rank's super-batches."""
        most = self.config.select.super_batch_size // world()[1]
        with self.clock("scoring"):
            return Renewal(self.scorer, self.criterion, self.shares, part_size=most)(held)

    def _count_reference(self, reference: AnyReference) -> None:
        """Have the reference ready; what its training took is this run's."""
        if reference.ready(self.folder, self.around, start_or_resume):
            learned = reference.facts["examples_learned"]
            self.ledger.pretrain("reference", learned)
            if reference.facts["recomputed"]:
                self.ledger.recompute("reference", learned)
            self.clock.seconds["reference"] = reference.facts["seconds"]

    def _without_duplicates(self, batch: Batch) -> Batch:
        kept, duplicates = without_duplicates(batch)
        self.logbook.recorder.leave_out(duplicates)
        return kept

    def _read(self, draws: Int[Tensor, " n"]) -> Batch:
        return to_device(self.stream.read(draws.cpu().numpy()), self.device)

    def _shown(self, chosen: Batch) -> Batch:
        """This rank's share of what was chosen, as it is learned."""
        return self.learn_view(self.shares(chosen))

    def _after(self, step: Step) -> None:
        """Between two turns: record, evaluate, checkpoint, stop."""
        record, number = self.config.record, step.number
        if self.reference is not None:
            self.reference.follow()
        last = number == self.config.steps
        if self.reference is not None:
            count = sum(counts(self.reference.scored_on_demand()))
            self.ledger.score({"reference"} if count else (), count)
        with self.clock("recording"):
            self.logbook.add(step)
        row: dict[str, float | int] = {}
        evaluate_every = record.evaluate_every or max(1, self.config.steps // 20)
        if last or number % evaluate_every == 0:
            row = self._evaluate() | self._agreement(step)
        if row or number == 1 or number % record.log_every == 0:
            with self.clock("recording"):
                self.logbook.log(step, {**self._of_actors(), **row})
        stop = any_rank(self.around.stop()) and not last
        if last or stop or number % record.checkpoint_every == 0:
            self._checkpoint(number)
        if stop:
            raise Stopped(
                f"stopped at step {number} of {self.config.steps}; continue with "
                f"superbatch train --resume {self.folder.path}"
            )

    def _evaluate(self) -> dict[str, float | int]:
        with self.clock("evaluation"), self.trained["learner"].evaluated() as model:
            self.result = self.problem.evaluate(model, self.device)
        self.ledger.evaluate("learner", self.result.examples)
        return dict(self.result.metrics)

    def _agreement(self, step: Step) -> dict[str, float | int]:
        """Whether the online model finds hard what the learner finds hard, on the sub-batch."""
        if "online" not in self.trained:
            return {}
        batch = self._shown(step.draw.examples)
        with self.clock("evaluation"):
            learner, online = (
                gather_rows(self.trained[role].losses(batch)) for role in ("learner", "online")
            )
        for role in ("learner", "online"):
            self.ledger.evaluate(role, len(learner))
        return {"selection/agreement": rank_correlation(learner, online)}

    def _of_actors(self) -> Metrics:
        """What is known of those who score, where anybody does."""
        if self.actors is None or not self.criterion.roles:
            return {}
        found = dict(self.actors.metrics())
        found["actors/lost"] += sum(course.lost for course in self.alone.values())
        return found

    def _checkpoint(self, number: int) -> None:
        with self.clock("recording"):
            self.logbook.flush()
            self.state.save(number, self.result, keep=self.config.record.keep_checkpoints)

    def _examples_of(self, draws: Int[Tensor, " n"]) -> Batch:
        """What the bank holds of the examples of ``draws``."""
        if self.scores_elsewhere:
            return small_fields(self.stream.read(draws.cpu().numpy()))
        return travelling(self._read(draws))

    def _conclude(self) -> dict[str, Any]:
        """Save the weights and write the summary."""
        weights = {role: learner.evaluated_weights() for role, learner in self.trained.items()}
        summary = self.summary()
        return from_main(lambda: self._write_end(weights, summary))

    def _write_end(
        self, weights: Mapping[Role, Mapping[str, Tensor]], summary: dict[str, Any]
    ) -> dict[str, Any]:
        for role, values in weights.items():
            path = self.folder.checkpoints / f"{role}.safetensors"
            save_weights(path, values, self.problem.about(role))
        self.folder.finish(summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """What the finished run came to and what it cost."""
        assert self.result is not None  # the last step is always evaluated
        return self.logbook.summary(self.result) | {
            "left_out": dict(self.problem.left_out),
            "skipped_images": len(united(self.stream.skipped)) + self.problem.skipped,
            "reference": self.reference.facts if self.reference else None,
            "actors": dict(self._of_actors()) if self.scores_elsewhere else None,
            "checkpoint": str(self.folder.checkpoints / "learner.safetensors"),
        }
