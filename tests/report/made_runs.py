"""Run folders made on the spot, in the format that training writes."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


CLASSES = ["aeroplane", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "van"]


def write_run(
    folder: Path,
    values: dict[int, float],
    *,
    recipe: str = "uniform",
    seed: int = 0,
    steps: int | None = None,
    metric: str = "val/accuracy",
    start: float = 0.0,
    paper: float = 10.0,
    full: float = 10.0,
    second: float = 1.0,
    finished: bool = True,
    data: str = "data/digits",
) -> Path:
    """A run that was evaluated at the steps of ``values``; costs are per step, ``start`` once."""
    folder.mkdir(parents=True)
    horizon = max(values, default=0) if steps is None else steps
    config = {"recipe": recipe, "seed": seed, "steps": horizon}
    config["data"] = {"path": data, "label": "label", "image": "image", "eval_path": f"{data}/test"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"command": f"superbatch train {recipe}"}))
    rows = [
        {
            "step": step,
            "examples_seen": 64 * step,
            "examples_learned": 32 * step,
            "seconds": second * step,
            "flops/paper": start + paper * step,
            "flops/full": start + full * step,
            metric: value,
        }
        for step, value in values.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        summary = {"recipe": recipe, "seed": seed, "steps": horizon, "val": {}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_rich_run(
    folder: Path,
    *,
    recipe: str,
    seed: int,
    steps: int = 400,
    every: int = 20,
    rate: float = 1.0,
    pool: int = 2000,
    super_batch: int = 64,
    class_names: list[str] | None = None,
    data: str = "data/digits",
) -> Path:
    """A finished run with everything that training logs; ``rate`` is how fast it learns."""
    folder.mkdir(parents=True)
    random = np.random.default_rng([seed, *recipe.encode()])
    names = class_names or CLASSES
    criterion = "learnability" if recipe == "classact" else recipe
    select = {"criterion": criterion, "super_batch_size": super_batch, "temperature": 1.0}
    config = {
        "recipe": recipe,
        "seed": seed,
        "steps": steps,
        "data": {
            "path": data,
            "label": "label",
            "image": "image",
            "truth": "truth",
            "eval_path": f"{data}/test",
        },
        "select": {**select, "sub_batch_size": super_batch // 2},
        "models": {"learner": "Ti/4", "online": "Mu/4", "reference": "Mu/4"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    environment = {
        "versions": {"superbatch": "0.1.0", "torch": "2.15", "python": "3.11"},
        "device": "cpu",
        "git_commit": "85eaf23",
        "command": f"superbatch train {recipe} --data.path {data} --seed {seed}",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    selects = recipe != "uniform"
    rows = [
        _row(step, random, selects, rate, super_batch, step % every == 0)
        for step in range(5, steps + 1, 5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_selection(
        folder, random, steps=steps, super_batch=super_batch, pool=pool, selects=selects
    )
    (folder / "summary.json").write_text(json.dumps(_summary(config, rows[-1], random, names)))
    return folder


def write_selection(
    folder: Path,
    random: np.random.Generator,
    *,
    steps: int,
    super_batch: int,
    pool: int,
    selects: bool,
) -> None:
    """Parts of 200 steps; an example's wish is its own, so that some are never chosen."""
    (folder / "selection").mkdir()
    wish = np.random.default_rng(7).normal(size=pool)
    for first in range(1, steps + 1, 200):
        last = min(first + 199, steps)
        count = (last - first + 1) * super_batch
        ids = random.integers(0, pool, count)
        noise = random.normal(size=count)
        drawn_by = 0.3 * wish[ids] + 0.1 * noise if selects else noise
        place = drawn_by.reshape(-1, super_batch).argsort(axis=1).argsort(axis=1)
        columns = {
            "step": np.repeat(np.arange(first, last + 1, dtype=np.int32), super_batch),
            "id": ids,
            "score": (drawn_by if selects else np.zeros(count)).astype(np.float32),
            "chosen": (place >= super_batch // 2).reshape(-1),
        }
        if selects:
            reference = random.gamma(2.0, 0.5, count)
            columns["loss/online"] = (reference + drawn_by).astype(np.float32)
            columns["loss/reference"] = reference.astype(np.float32)
        pq.write_table(pa.table(columns), folder / "selection" / f"{first:08d}-{last:08d}.parquet")


def _row(
    step: int,
    random: np.random.Generator,
    selects: bool,
    rate: float,
    super_batch: int,
    evaluates: bool,
) -> dict[str, float]:
    row: dict[str, float] = {
        "step": step,
        "examples_seen": step * super_batch,
        "examples_learned": step * (super_batch // 2),
        "seconds": step * (0.13 if selects else 0.1),
        "flops/paper": step * (1.07e9 if selects else 1e9) + (2.2e10 if selects else 0),
        "flops/full": step * (1.13e9 if selects else 1e9) + (2.2e10 if selects else 0),
        "learner/loss": 2.3 * np.exp(-rate * step / 150) + 0.05 * random.normal(),
    }
    if selects:
        row |= {
            "online/loss": 2.3 * np.exp(-rate * step / 250) + 0.05 * random.normal(),
            "selection/score_std": 0.3 + 0.02 * random.normal(),
            "selection/effective_sample_size": 50 - 10 * step / 400 + random.normal(),
            "selection/kept_gain": 0.5 + 0.05 * random.normal(),
            "selection/staleness": 0.0,
            "selection/clean_share": 0.82 + 0.1 * step / 400 + 0.01 * random.normal(),
        }
    if evaluates:
        accuracy = 0.85 * (1 - np.exp(-rate * step / 150)) + 0.008 * random.normal()
        row |= {
            "val/accuracy": accuracy,
            "val/top5": min(1.0, accuracy + 0.13),
            "val/loss": 2.3 * (1 - accuracy),
            "val/worst_class_accuracy": accuracy - 0.12,
        }
    return row


def _summary(
    config: dict, last: dict[str, float], random: np.random.Generator, names: list[str]
) -> dict:
    selects = config["recipe"] != "uniform"
    total = last["flops/full"]
    by_role = {"learner": {"score": 0, "learn": total, "pretrain": 0, "evaluate": 0.1 * total}}
    if selects:
        scored, pretrained = 0.03 * total, 2.2e10
        by_role["online"] = {"score": scored, "learn": scored, "pretrain": 0}
        by_role["reference"] = {"score": scored, "learn": 0, "pretrain": pretrained}
        by_role["learner"]["learn"] = total - 3 * scored - pretrained
    per_class = np.clip(last["val/accuracy"] + 0.06 * random.normal(size=len(names)), 0, 1)
    phases = {"data": 5.0, "learner": 36.0, "evaluation": 3.0, "recording": 0.4}
    if selects:
        phases |= {"scoring": 8.0, "online": 2.0, "selection": 0.5}
    return {
        "recipe": config["recipe"],
        "seed": config["seed"],
        "steps": config["steps"],
        "examples_seen": last["examples_seen"],
        "examples_learned": last["examples_learned"],
        "flops": {"paper": last["flops/paper"], "full": total, "by_role": by_role},
        "seconds": {"total": last["seconds"], "by_phase": phases},
        "val": {
            "accuracy": last["val/accuracy"],
            "top5": last["val/top5"],
            "worst_class_accuracy": float(per_class.min()),
            "per_class": per_class.tolist(),
            "class_names": names,
        },
        "checkpoint": "checkpoints/last",
        "selection": {"clean_share": 0.9, "clean_share_pool": 0.82},
    }


class MadeExamples:
    """Pictures made on the spot with every ``read``: a wave for each class, ids 0 to ``pool``."""

    def __init__(self, class_names: list[str], pool: int = 2000) -> None:
        random = np.random.default_rng(3)
        self.ids = np.arange(pool)
        self.labels = random.integers(0, len(class_names), pool)
        self.class_names = class_names
        wrong = random.random(pool) < 0.15
        others = random.integers(0, len(class_names), pool)
        self.truth = np.where(wrong, others, self.labels)

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        y, x = np.mgrid[:8, :8]
        waves = [
            [np.sin(x / (1 + label) + channel) * np.cos(y / (1 + label)) for channel in range(3)]
            for label in self.labels[rows]
        ]
        return {
            "id": self.ids[rows],
            "image": (128 + 100 * np.array(waves)).astype(np.uint8),
            "label": self.labels[rows],
            "truth": self.truth[rows],
        }


class MadePairs:
    """Pairs of a picture made with every ``read`` and one of ``captions``, ids 0 to ``pool``.

    Every third caption was written for another image.
    """

    def __init__(self, captions: list[str], pool: int = 2000) -> None:
        self.ids = np.arange(pool)
        self.captions = [captions[row % len(captions)] for row in range(pool)]

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        ids = self.ids[rows]
        image = np.broadcast_to((ids % 256)[:, None, None, None], (len(ids), 3, 8, 8))
        return {
            "id": ids,
            "image": image.astype(np.uint8),
            "text": np.zeros((len(ids), 8), np.int64),
            "image_id": ids,
            "caption_of": np.where(ids % 3 == 0, ids + 1, ids),
        }
