"""What a step costs beyond its arithmetic: classact against uniform, and the share of bookkeeping.

    python benchmarks/overhead.py [--steps 8] [--rounds 3]

Runs both recipes in turn and takes medians over their steps. The ledger predicts how much longer a
step of classact takes: the examples it counted, by role and work, each at the seconds measured for
a scoring pass or an update of that model alone. Exits with 1 if the measured ratio is over 1.10
times the predicted one, or if data, selection and recording take over 3 % of a step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from ratios import seconds, verdict
from small_run import made_images, small_run

from superbatch import build, training
from superbatch.config import Config
from superbatch.problems import problem_of
from superbatch.run import RunFolder
from superbatch.surroundings import Status, Surroundings
from superbatch.types import ROLES, Role


RATIO_LIMIT = 1.10
SHARE_LIMIT = 0.03
BOOKKEEPING = ("data", "selection", "recording")
STEPS_PER_CHECKPOINT = Config().record.checkpoint_every


@dataclass
class Measured:
    """Seconds of one recipe: whole steps, bookkeeping in them, and checkpoints; examples a step."""

    steps: list[float] = field(default_factory=list)
    bookkeeping: list[float] = field(default_factory=list)
    checkpoints: list[float] = field(default_factory=list)
    examples: dict[tuple[Role, str], float] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """Of a whole step, its median."""
        return statistics.median(self.steps)

    @property
    def share(self) -> float:
        """Of bookkeeping in a step, with its part of a checkpoint."""
        checkpoint = statistics.median(self.checkpoints) / STEPS_PER_CHECKPOINT
        return (statistics.median(self.bookkeeping) + checkpoint) / self.step


def measure(config: Config, into: Measured) -> None:
    """Run ``config`` and add what its steps took, the first two left out."""
    times: list[tuple[float, float]] = []

    def bookkeeping() -> float:
        return sum(run.clock.seconds.get(phase, 0.0) for phase in BOOKKEEPING)

    def watch(status: Status) -> None:
        if status.title == config.recipe:
            times.append((time.perf_counter(), bookkeeping()))

    folder = RunFolder(Path(str(config.out)))
    around = Surroundings(watch=watch)
    run = training.Run(config, problem_of(config), folder, around)
    folder.create(config.model_dump(mode="json"), {})
    run.finish()
    into.checkpoints.append(bookkeeping() - times[-1][1])
    # The last step is also evaluated: it ends where the one before it did.
    for before, after in pairwise(times[1:-1]):
        into.steps.append(after[0] - before[0])
        into.bookkeeping.append(after[1] - before[1])
    into.examples = {
        (role, work): count / config.steps
        for role, spent in run.ledger.examples().items()
        for work, count in spent.items()
        if work in ("score", "learn") and count
    }


def alone(config: Config, *, rounds: int) -> dict[tuple[Role, str], float]:
    """Seconds for each example of a scoring pass and of an update, of each model by itself."""
    data = problem_of(config)
    scored, learned = config.select.super_batch_size, config.select.sub_batch_size
    batch = data.examples.read(data.rows[:scored])
    sub_batch = {name: column[:learned] for name, column in batch.items()}
    calls: dict[tuple[Role, str], tuple[Callable[[], object], int]] = {}
    for role in ROLES:
        learner = build.learner_of(config, role, data, torch.device("cpu"))
        calls[role, "score"] = partial(learner.losses, batch), scored
        calls[role, "learn"] = partial(learner.step, sub_batch), learned
    taken: dict[tuple[Role, str], list[float]] = {key: [] for key in calls}
    for number in range(rounds + 1):
        for key, (call, count) in calls.items():
            once = seconds(call) / count
            if number:  # the first is a warm-up
                taken[key].append(once)
    return {key: statistics.median(values) for key, values in taken.items()}


def predicted(measured: Measured, prices: dict[tuple[Role, str], float]) -> float:
    """Seconds of a step, if it were nothing but what the ledger counted."""
    return sum(count * prices[key] for key, count in measured.examples.items())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=8, help="steps of each run, 5 or more")
    options.add_argument("--rounds", type=int, default=3, help="runs of each recipe")
    given = options.parse_args()
    measured = {"uniform": Measured(), "classact": Measured()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = made_images(folder)
        for number in range(given.rounds):
            for recipe, into in measured.items():
                out = folder / f"{recipe}-{number}"
                measure(small_run(recipe, data, out, steps=given.steps), into)
        config = small_run("classact", data, folder / "unused", steps=given.steps)
        prices = alone(config, rounds=2 * given.rounds)
    for recipe, of in measured.items():
        print(
            f"{recipe}: {of.step:.3f} s a step, {predicted(of, prices):.3f} s by the ledger, "
            f"bookkeeping {of.share:.2%}"
        )
    ours = measured["classact"].step / measured["uniform"].step
    ledger = predicted(measured["classact"], prices) / predicted(measured["uniform"], prices)
    print(f"classact over uniform: {ours:.3f}, by the ledger {ledger:.3f}")
    holds = verdict("seconds a step over the ledger's prediction", ours / ledger, RATIO_LIMIT)
    share = measured["classact"].share
    holds &= verdict("data, selection and recording in a step", share, SHARE_LIMIT)
    return not holds


if __name__ == "__main__":
    sys.exit(main())
