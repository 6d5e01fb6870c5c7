"""What does each criterion choose? Noisy, redundant and irrelevant examples among the chosen.

The pool of a seed is 20,000 CIFAR-10 images, 10 % of their labels replaced by another class; 8,000
more copies of 2,000 of the right ones (redundant); and 4,000 images of ten Tiny-ImageNet classes
under labels of their own, which no evaluation asks for (irrelevant). The held-out reference learns
20,000 other CIFAR-10 images, as noisy. Every recipe trains a learner of its own from the same start
on the same super-batches of 160, of which it chooses 32.

    python benchmarks/properties.py --data ../shared/data --out runs/properties
    python benchmarks/properties.py --out runs/properties --table docs/results/properties.json

The first runs what is left of the grid, one process a run; the second adds up what is there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from superbatch.actors.scorers import LossScorer
from superbatch.bank import MemoryBank
from superbatch.criterion import CRITERIA
from superbatch.learner import Learner, Optimisation, warmup_cosine
from superbatch.models.build import build_model
from superbatch.passes import traceless
from superbatch.recipes import recipe
from superbatch.seeds import derived_seed, generator
from superbatch.sources import Stream, augmentation, open_examples, plain
from superbatch.tasks import Classification
from superbatch.types import size


RECIPES = (
    "uniform",
    "train_loss",
    "grad_norm",
    "rho_loss",
    "irreducible",
    "classact_ho",
    "entropy",
    "selective_backprop",
    "bald",
    "infobatch",
    "grad_norm_is",
    "boltzmann",
    "conditional_entropy",
    "loss_minus_conditional_entropy",
)
SEEDS = (0, 1, 2)
KINDS = ("noisy", "redundant", "irrelevant")
SUPER_BATCH_SIZE, SUB_BATCH_SIZE = 160, 32
STEPS, REFERENCE_STEPS = 600, 1500
MODEL = "mu-2400/8"
COMPOSERS = SUB_BATCH_SIZE / (SUPER_BATCH_SIZE - SUB_BATCH_SIZE)
"""Temperature at which selective_backprop has the power that composer takes for this share."""
CLASSES = 20
TASK = Classification()
EVERY = 5
"""Steps between two looks at what the learner has right already, which costs a forward pass."""


def made_data(data: Path, out: Path, seed: int) -> None:
    """The pool and the held-out set of ``seed``, as .npz files."""
    random = np.random.default_rng(derived_seed(seed, "properties"))
    cifar = pq.read_table(data / "cifar10n" / "train.parquet", columns=["image", "label"])
    others = pq.read_table(data / "tiny_imagenet_32" / "train.parquet", columns=["image", "label"])
    order = random.permutation(len(cifar))
    pool, wrong = noisy(cifar.take(order[:20_000]), random)
    holdout, _ = noisy(cifar.take(order[20_000:40_000]), random)
    copied = np.flatnonzero(~wrong)[:2_000]
    copies = pool.take(np.repeat(copied, 4))
    numbers = others["label"].to_numpy()
    classes = random.choice(numbers.max() + 1, 10, replace=False)
    rows = np.concatenate([np.flatnonzero(numbers == one)[:400] for one in classes])
    labels = np.repeat(np.arange(10, 20), [np.sum(numbers[rows] == one) for one in classes])
    strange = others.take(rows).set_column(1, "label", pa.array(labels, pa.int64()))
    kind = np.where(wrong, "noisy", "plain").astype("U10")
    kind[copied] = "redundant"
    kinds = [kind, np.full(len(copies), "redundant"), np.full(len(strange), "irrelevant")]
    tables = [table.select(["image", "label"]) for table in (pool, copies, strange)]
    whole = pa.concat_tables([one.replace_schema_metadata(None) for one in tables])
    written(out / f"pool-seed{seed}.npz", whole, np.concatenate(kinds))
    written(out / f"holdout-seed{seed}.npz", holdout, np.full(len(holdout), "plain"))


def noisy(table: pa.Table, random: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """``table`` with a tenth of the labels another class, and which those are."""
    labels = table["label"].to_numpy().astype(np.int64)
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[random.permutation(len(labels))[: len(labels) // 10]] = True
    labels[wrong] = (labels[wrong] + random.integers(1, 10, wrong.sum())) % 10
    return table.set_column(1, "label", pa.array(labels, pa.int64())), wrong


def written(path: Path, table: pa.Table, kinds: np.ndarray) -> None:
    """``table``, decoded once, as an .npz file with the kinds."""
    encoded = path.with_suffix(".parquet")
    ids = pa.array(np.arange(len(table)), pa.int64())
    pq.write_table(table.append_column("id", ids).replace_schema_metadata(None), encoded)
    batch = open_examples(str(encoded)).read(np.arange(len(table)))
    images = batch["image"].permute(0, 2, 3, 1).numpy()
    np.savez(path, images=images, labels=batch["label"].numpy(), kind=kinds)
    encoded.unlink()


def learner_of(seed: int, role: str, steps: int, dropout: float = 0.0) -> Learner:
    """A new model with its optimiser."""
    start = derived_seed(seed, "weights", role)
    model = build_model(
        MODEL, image_size=32, channels=3, classes=CLASSES, seed=start, dropout=dropout
    )
    schedule = warmup_cosine(peak=2e-3, warmup=steps // 20, steps=steps)
    return Learner(model, TASK, Optimisation(schedule))


def reference(out: Path, seed: int) -> torch.nn.Module:
    """The model that has learned the held-out set; trained the first time."""
    path = out / f"reference-seed{seed}.pt"
    learner = learner_of(seed, "reference", REFERENCE_STEPS)
    if not path.exists():
        examples = open_examples(str(out / f"holdout-seed{seed}.npz"))
        view = augmentation(flip=True, crop_padding=4, rand_augment=False, seed=seed)
        stream = Stream(
            examples, np.arange(len(examples)), batch_size=128, seed=seed + 100, view=view
        )
        for _, batch in zip(range(REFERENCE_STEPS), stream, strict=False):
            learner.step(batch)
        torch.save(learner.model.state_dict(), path)
    learner.model.load_state_dict(torch.load(path, weights_only=True))
    return learner.model


def one_run(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train by recipe ``name``; the shares of what it chose."""
    started, worked = time.perf_counter(), time.process_time()
    select, dropout = recipe(name).select, recipe(name).models.dropout
    criterion = CRITERIA[select.criterion]
    learners = {"learner": learner_of(seed, "learner", STEPS, dropout)}
    if "online" in criterion.roles:
        learners["online"] = learner_of(seed, "online", STEPS)
    measured = partial(criterion.measure.of, TASK)
    sources: dict[Any, Any] = {role: one.scored(measured) for role, one in learners.items()}
    if "reference" in criterion.roles:
        sources["reference"] = traceless(reference(out, seed), measured)
    scorer = LossScorer(criterion, sources)
    bank = MemoryBank(
        SUPER_BATCH_SIZE,
        generator=generator(seed, "selection"),
        temperature=COMPOSERS if name == "selective_backprop" else select.temperature,
        importance_exponent=select.importance_exponent,
    )
    path = out / f"pool-seed{seed}.npz"
    kinds = np.load(path)["kind"]
    examples = open_examples(str(path))
    stream = Stream(
        examples, np.arange(len(examples)), batch_size=SUPER_BATCH_SIZE, seed=seed, view=plain
    )
    answer = learners["learner"].scored(TASK.logits)
    chosen: list[np.ndarray] = []
    right: list[tuple[float, float]] = []
    for step, batch in zip(range(STEPS), stream, strict=False):
        bank.add(batch, scorer(batch).scores)
        draw = bank.sample(SUB_BATCH_SIZE)
        if step % EVERY == 0:
            correct = (answer(batch).argmax(1) == batch["label"]).float()
            right.append((float(correct.mean()), float(correct[draw.index].mean())))
        for learner in learners.values():
            learner.step(draw.examples)
        chosen.append(draw.examples["id"].numpy())
    ids = np.concatenate(chosen)
    return {
        "recipe": name,
        "seed": seed,
        "steps": STEPS,
        "shares": {kind: float(np.mean(kinds[ids] == kind)) for kind in KINDS},
        "pool": {kind: float(np.mean(kinds == kind)) for kind in KINDS},
        "already_right": float(np.mean([here for _, here in right])),
        "already_right_seen": float(np.mean([there for there, _ in right])),
        "thirds": [
            {kind: float(np.mean(kinds[part] == kind)) for kind in KINDS}
            for part in np.array_split(ids, 3)
        ],
        "accuracy": accuracy(answer, out),
        "distinct": len(np.unique(ids)) / len(ids),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
    }


def accuracy(answer: Any, out: Path) -> float:
    """Of the learner on CIFAR-10's test images, among all labels that it knows."""
    examples = open_examples(str(out / "test.npz"))
    rows = np.array_split(np.arange(len(examples)), 20)
    batches = [examples.read(part) for part in rows]
    correct = sum(int((answer(one).argmax(1) == one["label"]).sum()) for one in batches)
    return correct / sum(size(one) for one in batches)


def table(out: Path) -> dict[str, Any]:
    """Means and spreads over the seeds of each recipe that has run, relative to the pool."""
    parts = [json.loads(path.read_text()) for path in sorted(out.glob("part-*.json"))]
    rows: dict[str, Any] = {}
    for name in [one for one in RECIPES if any(part["recipe"] == one for part in parts)]:
        mine = [part for part in parts if part["recipe"] == name]
        numbers = {
            kind: [part["shares"][kind] / part["pool"][kind] for part in mine] for kind in KINDS
        }
        numbers["already_right"] = [part["already_right"] for part in mine]
        numbers["already_right_seen"] = [part["already_right_seen"] for part in mine]
        numbers["accuracy"] = [part["accuracy"] for part in mine]
        numbers["distinct"] = [part["distinct"] for part in mine]
        rows[name] = {"seeds": [part["seed"] for part in mine]} | {
            key: {"mean": statistics.mean(values), "std": statistics.stdev(values)}
            if len(values) > 1
            else {"mean": values[0], "std": None}
            for key, values in numbers.items()
        }
    return {
        "command": "python benchmarks/properties.py --data ../shared/data --out runs/properties",
        "device": "CPU, one thread",
        "torch": torch.__version__,
        "sizes": {"B": SUPER_BATCH_SIZE, "b": SUB_BATCH_SIZE, "steps": STEPS, "models": MODEL},
        "pool": parts[0]["pool"],
        "recipes": rows,
        "parts": parts,
    }


def said(found: dict[str, Any]) -> str:
    """The means and spreads as rows for docs/results.md."""
    keys = (*KINDS, "already_right", "already_right_seen", "accuracy")
    lines = [f"| recipe | seeds | {' | '.join(keys)} |", f"|---|--:|{'--:|' * len(keys)}"]
    for name, row in found["recipes"].items():
        cells = [
            f"{row[key]['mean']:.2f}"
            + (f" ± {row[key]['std']:.2f}" if row[key]["std"] is not None else "")
            for key in keys
        ]
        lines.append(f"| `{name}` | {len(row['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def grid(data: Path, out: Path) -> None:
    """Every run that has no part yet, one after the other, each in a process of its own."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "test.npz").exists():
        test = pq.read_table(data / "cifar10n" / "test.parquet", columns=["image", "label"])
        written(out / "test.npz", test, np.full(len(test), "plain"))
    for name, seed in product(RECIPES, SEEDS):
        if not (out / f"holdout-seed{seed}.npz").exists():
            made_data(data, out, seed)
        if not (out / f"part-{name}-seed{seed}.json").exists():
            command = [sys.executable, __file__, "--out", str(out), "--one", name, str(seed)]
            subprocess.run(command, check=True)


def main() -> None:
    """Run the grid, one of its runs, or print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "SEED"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        name, seed = given.one[0], int(given.one[1])
        found = one_run(name, seed, given.out)
        (given.out / f"part-{name}-seed{seed}.json").write_text(json.dumps(found, indent=1))
        print(json.dumps({key: found[key] for key in ("recipe", "seed", "shares", "seconds")}))
    elif given.data:
        grid(given.data, given.out)
    if given.table:
        found = table(given.out)
        given.table.write_text(json.dumps(found, indent=1) + "\n")
        print(said(found))


if __name__ == "__main__":
    main()
