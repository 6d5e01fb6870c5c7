"""What a record of choices costs, and what learning in its order costs.

    python benchmarks/orders.py [--steps 30] [--rounds 3]

Writes a record of 10^6 chosen examples as a run does and measures its bytes and seconds; reads the
same examples by an order and by the uniform stream; and trains a small learner both ways in turn.
Exits with 1 if an example takes 10 bytes or more, recording takes over 1 % of an update of 0.1 s,
or the order costs over 1.02 times uniform, in medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from ratios import ratio, verdict
from small_run import made_images, small_run

from superbatch import training
from superbatch.actors import Scored
from superbatch.bank import Draw
from superbatch.chosen import Chosen
from superbatch.config import Config
from superbatch.loop import Step
from superbatch.orders import replay_order, write_order
from superbatch.run import RunFolder
from superbatch.sources import Stream, augmentation, open_examples
from superbatch.sources.ordered import OrderedStream
from superbatch.surroundings import Status, Surroundings


CHOSEN = 1_000_000
BYTES_LIMIT = 10.0
UPDATE_SECONDS = 0.1
SHARE_LIMIT = 0.01
RATIO_LIMIT = 1.02
STEPS_PER_CHECKPOINT = Config().record.checkpoint_every
READ = 64
IDS = {
    "row numbers of 50,000": lambda draws, random: random.permutation(50_000)[draws % 50_000],
    "64 random bits": lambda draws, random: random.integers(-(2**63), 2**63 - 1, len(draws)),
}


@dataclass(frozen=True)
class Named:
    """Examples, as far as a record of choices looks at them."""

    ids: np.ndarray


def chosen_steps(ids: str, *, size: int, rho: int) -> list[Step]:
    """The steps of a run that chose ``size`` of ``rho * size`` examples, 10^6 in all."""
    random = np.random.default_rng(0)
    count = CHOSEN // size
    draws = np.concatenate(
        [
            number * rho * size + np.sort(random.permutation(rho * size)[:size])
            for number in range(count)
        ]
    )
    named = IDS[ids](draws, random)
    none = torch.empty(0)
    index = torch.empty(0, dtype=torch.int64)
    steps = []
    for number in range(count):
        here = slice(number * size, (number + 1) * size)
        batch = {"id": torch.from_numpy(named[here]), "draw": torch.from_numpy(draws[here])}
        steps.append(
            Step(number + 1, (Scored(batch, none, {}, 0),), Draw(batch, index, none, index), {})
        )
    return steps


def record(folder: Path, steps: list[Step]) -> tuple[float, float]:
    """Bytes an example and seconds a step of writing ``steps`` as a run does."""
    run = RunFolder(folder)
    chosen = Chosen(run, Named(np.arange(50_000)))
    start = time.perf_counter()
    for step in steps:
        chosen.add(step)
        if step.number % STEPS_PER_CHECKPOINT == 0:
            chosen.flush()
    chosen.flush()
    taken = time.perf_counter() - start
    written = sum(part.stat().st_size for part in run.parts("chosen"))
    return written / CHOSEN, taken / len(steps)


def recording(folder: Path) -> bool:
    """Whether records are small and quickly written."""
    holds = True
    for ids in IDS:
        for size, rho in ((64, 2), (512, 5)):
            steps = chosen_steps(ids, size=size, rho=rho)
            taken, each = record(folder / f"{ids}-{size}", steps)
            print(f"ids {ids}, b {size}, rho {rho}: {1e6 * each:.0f} microseconds a step")
            holds &= verdict("bytes a chosen example", taken, BYTES_LIMIT)
            holds &= verdict("recording in an update of 0.1 s", each / UPDATE_SECONDS, SHARE_LIMIT)
    return holds


def reading(data: Path, *, rounds: int) -> bool:
    """Whether an order is read as fast as the uniform stream it was made of."""
    examples = open_examples(str(data))
    rows = np.arange(len(examples))
    view = augmentation(flip=True, crop_padding=4, rand_augment=False, seed=0)
    uniform = Stream(examples, rows, batch_size=READ, seed=0, view=view)
    draws = np.arange(200 * READ)
    ordered = OrderedStream(examples, uniform.rows_at(draws), draws, batch_size=READ, view=view)

    def read(stream: Stream | OrderedStream) -> None:
        stream.load_state_dict({"step": 0, "skipped": []})
        for _ in islice(stream, 50):
            pass

    taken = ratio(lambda: read(ordered), lambda: read(uniform), rounds=5 * rounds)
    return verdict("reading an order over reading uniformly", taken, RATIO_LIMIT)


def step_seconds(config: Config) -> list[float]:
    """What each step of the run took, the first and the evaluated last left out."""
    times: list[float] = []

    def watch(status: Status) -> None:
        times.append(time.perf_counter())

    training.start(config, Surroundings(watch=watch))
    return [after - before for before, after in pairwise(times[1:-1])]


def learning(folder: Path, data: Path, *, steps: int, rounds: int) -> bool:
    """Whether learning in an order takes as long as uniform training."""

    def config(name: str) -> Config:
        return small_run("uniform", data, folder / name, steps=steps).changed(
            select={"super_batch_size": READ, "sub_batch_size": READ}
        )

    training.start(config("first"))
    order = folder / "order.parquet"
    write_order(replay_order(folder / "first"), order)
    taken: dict[str, list[float]] = {"uniform": [], "order": []}
    for number in range(rounds):
        taken["uniform"] += step_seconds(config(f"uniform-{number}"))
        replay = config(f"order-{number}").changed(data={"order": str(order)})
        taken["order"] += step_seconds(replay)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"a step in order {medians['order']:.4f} s, uniform {medians['uniform']:.4f} s")
    more = medians["order"] / medians["uniform"]
    return verdict("training in order over training uniformly", more, RATIO_LIMIT)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=30, help="steps of each run, 5 or more")
    options.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = made_images(folder)
        holds = recording(folder)
        holds &= reading(data, rounds=given.rounds)
        holds &= learning(folder, data, steps=given.steps, rounds=given.rounds)
    return not holds


if __name__ == "__main__":
    sys.exit(main())
