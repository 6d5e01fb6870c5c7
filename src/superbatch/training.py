"""One run, from configuration to summary: build, loop, record, evaluate, checkpoint."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from superbatch import build
from superbatch.actors.inline import InlineActor
from superbatch.bank import MemoryBank
from superbatch.checkpoint import checkpoints, load_checkpoint, save_checkpoint, save_weights
from superbatch.clock import Clock
from superbatch.config import Config, check
from superbatch.errors import Stopped
from superbatch.evaluation import ClassificationResult, evaluate_classification
from superbatch.flops import Ledger, forward_flops
from superbatch.learner import Learner, loss_source
from superbatch.loop import Step, train
from superbatch.mirror import Mirror, nowhere, tensorboard
from superbatch.recipes import recipe, resolved
from superbatch.record import Recorder
from superbatch.run import RunFolder
from superbatch.seeds import derived_seed, generator
from superbatch.selection import rank_correlation
from superbatch.sources import Stream, plain
from superbatch.surroundings import Status, Surroundings
from superbatch.types import Batch, LossSource, Metrics, Role, View, size, to_device


def run_folder(config: Config) -> Path:
    """Where the run of ``config`` is written."""
    return Path(config.out or f"runs/{config.recipe}-seed{config.seed}")


def start(config: Config, around: Surroundings | None = None) -> dict[str, Any]:
    """Run ``config`` in a new folder; the summary. Errors are ``SuperbatchError``s."""
    around = around or Surroundings()
    config = resolved(config)
    check(config)
    folder = RunFolder(run_folder(config))
    folder.refuse_taken()
    # All that can be refused is refused before anything is written.
    run = Run(config, build.load_data(config), folder, around)
    folder.create(config.model_dump(mode="json"), build.environment(around.command))
    return run.finish()


def resume(path: Path, around: Surroundings | None = None) -> dict[str, Any]:
    """Continue the run in ``path`` from its newest checkpoint; the summary."""
    folder = RunFolder.open(path)
    summary: dict[str, Any] | None = folder.summary()
    if summary is not None:
        return summary
    around = around or Surroundings()
    config = Config.model_validate(folder.config())
    run = Run(config, build.load_data(config), folder, around)
    folder.describe(build.environment(around.command))
    return run.finish()


class Run:
    """The parts of one run. ``finish`` runs what is left of it."""

    def __init__(
        self, config: Config, data: build.LoadedData, folder: RunFolder, around: Surroundings
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        self.around = around
        self.device = build.pick_device(config.device)
        self.clock = Clock(self.device)
        self.criterion = build.criterion_of(config)
        self.recorder = Recorder(
            folder, rows=config.record.selection, temperature=config.select.temperature
        )
        alongside = config.reference_training.data == "alongside"
        self.trained = self._learners(alongside)
        self.fixed_reference: LossSource | None = None
        prices = {role: self._price(learner.model) for role, learner in self.trained.items()}
        self.pretraining: dict[str, Any] = {}
        if "reference" in self.criterion.roles and not alongside:
            prices["reference"] = self._foresee_reference()
        self.ledger = Ledger(prices)
        select = config.select
        self.bank = MemoryBank(
            select.super_batch_size * select.bank_super_batches,
            generator=generator(config.seed, "selection"),
            temperature=select.temperature,
            max_times_sampled=select.max_times_sampled,
        )
        view = build.view_of(config)
        same = config.score_view == "same"
        self.learn_view: View = plain if same else view
        self.stream = build.stream_of(
            config, data, select.super_batch_size, "super-batches", view if same else plain
        )
        self.uniform = self._uniform_streams(view)
        self.result: ClassificationResult | None = None
        self.mirror: Mirror = nowhere

    def _learners(self, alongside: bool) -> dict[Role, Learner]:
        roles: list[Role] = ["learner"]
        if "online" in self.criterion.roles:
            roles.append("online")
        if "reference" in self.criterion.roles and alongside:
            roles.append("reference")
        return {role: build.learner_of(self.config, role, self.data, self.device) for role in roles}

    def _uniform_streams(self, view: View) -> dict[Role, Stream]:
        if "reference" not in self.trained:
            return {}
        multiple = self.config.reference_training.batch_multiple
        count = multiple * self.config.select.sub_batch_size
        return {
            "reference": build.stream_of(self.config, self.data, count, "reference batches", view)
        }

    def _price(self, model: torch.nn.Module) -> int:
        return forward_flops(model, torch.empty(1, *self.data.examples.image_shape, device="meta"))

    def _foresee_reference(self) -> int:
        """Load the reference that is given; of it, or of the one to train, the forward FLOPs."""
        path = self.config.reference
        if path is None:
            return self._price(build.model_of(self.config, "reference", self.data))
        self.pretraining = {"checkpoint": path, "given": True}
        return self._load_reference(path)

    def _train_reference(self) -> None:
        self.pretraining = trained_reference(self.config, self.folder, self.around)
        self.ledger.pretrain("reference", self.pretraining["examples_learned"])
        self.clock.seconds["reference"] = self.pretraining["seconds"]
        self._load_reference(self.pretraining["checkpoint"])

    def _load_reference(self, path: str) -> int:
        """Score with the weights in ``path``; the model's forward FLOPs."""
        model = build.load_model(path, self.config, "reference", self.data).to(self.device)
        settings = self.config.optimise
        price = self._price(model)
        model.requires_grad_(False)
        self.fixed_reference = loss_source(
            torch.compile(model) if settings.compile else model,  # type: ignore[arg-type]
            build.task_of(self.config),
            micro_batch_size=settings.micro_batch_size,
            bf16=settings.bf16,
        )
        return price

    def finish(self) -> dict[str, Any]:
        """Run from the newest checkpoint (or the start) to the end; the summary."""
        if self.criterion.roles - self.trained.keys() and self.fixed_reference is None:
            self._train_reference()
        torch.manual_seed(derived_seed(self.config.seed, "global"))
        first = self._restore()
        if self.config.record.tensorboard:
            self.mirror = tensorboard(self.folder.path / "tensorboard", after=first)
        losses = {role: learner.losses for role, learner in self.trained.items()}
        if self.fixed_reference is not None:
            losses["reference"] = self.fixed_reference
        actors = InlineActor(
            self.stream, self.criterion, losses, device=self.device, clock=self.clock, step=first
        )
        turns = train(
            actors,
            self.bank,
            self.trained,
            self.ledger,
            steps=range(first + 1, self.config.steps + 1),
            sub_batch_size=self.config.select.sub_batch_size,
            roles=self.criterion.roles,
            learn_view=self.learn_view,
            uniform={role: self._on_device(stream) for role, stream in self.uniform.items()},
            clock=self.clock,
        )
        for step in turns:
            self._after(step)
        return self._conclude()

    def _on_device(self, stream: Stream) -> Iterator[Batch]:
        return (to_device(batch, self.device) for batch in stream)

    def _after(self, step: Step) -> None:
        """Between two turns: record, evaluate, checkpoint, stop."""
        record, number = self.config.record, step.number
        last = number == self.config.steps
        with self.clock("recording"):
            self.recorder.add(step)
        row: dict[str, float | int] = {}
        evaluate_every = record.evaluate_every or max(1, self.config.steps // 20)
        if last or number % evaluate_every == 0:
            row = self._evaluate() | self._agreement(step)
        if row or number == 1 or number % record.log_every == 0:
            with self.clock("recording"):
                self._log(step, row)
        stop = self.around.stop() and not last
        if last or stop or number % record.checkpoint_every == 0:
            self._checkpoint(number)
        if stop:
            raise Stopped(
                f"stopped at step {number} of {self.config.steps}; continue with "
                f"superbatch train --resume {self.folder.path}"
            )

    def _evaluate(self) -> dict[str, float | int]:
        with self.clock("evaluation"), self.trained["learner"].evaluated() as model:
            self.result = evaluate_classification(
                model,
                self.data.evaluation_batches(self.config.record.evaluate_batch),
                classes=len(self.data.class_names),
                device=self.device,
                bf16=self.config.optimise.bf16,
            )
        self.ledger.evaluate("learner", self.result.examples)
        return self.result.metrics()

    def _agreement(self, step: Step) -> dict[str, float | int]:
        """Whether the online model finds hard what the learner finds hard, on the sub-batch."""
        if "online" not in self.trained:
            return {}
        batch = self.learn_view(step.draw.examples)
        with self.clock("evaluation"):
            learner, online = (self.trained[role].losses(batch) for role in ("learner", "online"))
        for role in ("learner", "online"):
            self.ledger.evaluate(role, size(batch))
        return {"selection/agreement": rank_correlation(learner, online)}

    def _log(self, step: Step, evaluated: Metrics) -> None:
        row = self.recorder.row(step)
        row["seconds"] = round(self.training_seconds(), 3)
        row["flops/paper"] = self.ledger.total("paper")
        row["flops/full"] = self.ledger.total("full")
        row |= evaluated
        self.folder.append_metrics(row)
        self.mirror(step.number, row)
        self.around.watch(Status(self.config.recipe, step.number, self.config.steps, row))

    def training_seconds(self) -> float:
        """Seconds so far, the reference's training included, evaluation left out."""
        return self.clock.total() - self.clock.seconds.get("evaluation", 0.0)

    def _checkpoint(self, number: int) -> None:
        with self.clock("recording"):
            self.recorder.flush()
            save_checkpoint(
                self.folder.checkpoints,
                number,
                self.state_dict(number),
                keep=self.config.record.keep_checkpoints,
            )

    def state_dict(self, number: int) -> dict[str, Any]:
        """Everything with state after step ``number``."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": number,
            "learners": {role: learner.state_dict() for role, learner in self.trained.items()},
            "bank": self.bank.state_dict(),
            "stream": self.stream.state_dict(),
            "uniform": {role: stream.state_dict() for role, stream in self.uniform.items()},
            "ledger": self.ledger.state_dict(),
            "recorder": self.recorder.state_dict(),
            "clock": self.clock.state_dict(),
            "random": random,
            "result": None if self.result is None else asdict(self.result),
        }

    def _restore(self) -> int:
        """Load the newest checkpoint, forget what came after it; the step it was made at."""
        found = checkpoints(self.folder.checkpoints)
        if not found:
            self.folder.rewind(0)
            return 0
        state = load_checkpoint(found[-1])
        for role, learner in self.trained.items():
            learner.load_state_dict(state["learners"][role])
        self.stream.load_state_dict(state["stream"])
        for role, stream in self.uniform.items():
            stream.load_state_dict(state["uniform"][role])
        self.bank.load_state_dict(
            state["bank"],
            lambda draws: to_device(self.stream.read(draws.cpu().numpy()), self.device),
        )
        self.ledger.load_state_dict(state["ledger"])
        self.recorder.load_state_dict(state["recorder"])
        self.clock.load_state_dict(state["clock"])
        if state["result"] is not None:
            self.result = ClassificationResult(**state["result"])
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
        number: int = state["step"]
        self.folder.rewind(number)
        return number

    def _conclude(self) -> dict[str, Any]:
        """Save the weights and write the summary."""
        for role, learner in self.trained.items():
            save_weights(
                self.folder.checkpoints / f"{role}.safetensors",
                learner.evaluated_weights(),
                build.about_model(self.config, role, self.data),
            )
        summary = self.summary()
        self.folder.finish(summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """What the finished run came to and what it cost."""
        assert self.result is not None  # the last step is always evaluated
        return {
            "recipe": self.config.recipe,
            "seed": self.config.seed,
            "steps": self.config.steps,
            "examples_seen": self.recorder.examples_seen,
            "examples_learned": self.recorder.examples_learned,
            "flops": {
                "paper": self.ledger.total("paper"),
                "full": self.ledger.total("full"),
                "by_role": self.ledger.by_role(),
            },
            "seconds": {"total": self.clock.total(), "by_phase": self.clock.state_dict()},
            "val": {
                "accuracy": self.result.top1,
                "top5": self.result.top5,
                "worst_class_accuracy": self.result.worst_class,
                "per_class": list(self.result.per_class),
                "class_names": list(self.data.class_names),
            },
            "selection": self.recorder.selection_summary(),
            "skipped_images": self._skipped_images(),
            "reference": self.pretraining or None,
            "checkpoint": str(self.folder.checkpoints / "learner.safetensors"),
        }

    def _skipped_images(self) -> int:
        """Broken images that were left out, of a set that is only evaluated on too."""
        elsewhere = self.data.evaluation.skipped if self.config.data.eval_path else ()
        return len(self.stream.skipped) + len(elsewhere)


def reference_config(config: Config) -> Config:
    """The run that trains the reference of ``config``: uniform, on its part of the data."""
    training = config.reference_training
    steps = training.steps or config.steps
    return recipe("uniform").changed(
        seed=derived_seed(config.seed, "reference"),
        steps=steps,
        device=config.device,
        data=config.data.model_dump() | {"part": training.data},
        select={
            "super_batch_size": config.select.sub_batch_size,
            "sub_batch_size": config.select.sub_batch_size,
        },
        models={"learner": config.models.reference},
        optimise=config.optimise.model_dump(),
        record=config.record.model_dump()
        | {"selection": "none", "tensorboard": False, "evaluate_every": steps},
    )


def trained_reference(config: Config, folder: RunFolder, around: Surroundings) -> dict[str, Any]:
    """Train the reference of ``config``, or find it trained: its checkpoint and what it cost.

    It is a run of its own, in ``reference/`` of the run folder or, shared by several runs, in
    ``around.references``; each run's ledger still counts it in full.
    """
    wanted = reference_config(config)
    if around.references is None:
        path = folder.path / "reference"
    else:
        text = json.dumps(wanted.model_dump(mode="json"), sort_keys=True)
        path = around.references / hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def watch(status: Status) -> None:
        around.watch(Status("reference", status.step, status.steps, status.numbers))

    inner = Surroundings(around.command, watch, around.stop)
    started = (path / "config.json").is_file()
    try:
        summary = resume(path, inner) if started else start(wanted.changed(out=str(path)), inner)
    except Stopped as stopped:
        raise Stopped(
            f"stopped while its reference was trained; continue with "
            f"superbatch train --resume {folder.path}"
        ) from stopped
    seconds = summary["seconds"]
    return {
        "checkpoint": summary["checkpoint"],
        "examples_learned": summary["examples_learned"],
        "seconds": seconds["total"] - seconds["by_phase"].get("evaluation", 0.0),
        "accuracy": summary["val"]["accuracy"],
    }
