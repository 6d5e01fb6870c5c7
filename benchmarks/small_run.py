"""Runs on random images, for benchmarks to measure: a step takes a few seconds on two cores."""

from pathlib import Path

import numpy as np

from superbatch.config import Config
from superbatch.recipes import recipe, resolved


SUPER_BATCH_SIZE = 1024
SUB_BATCH_SIZE = 512
LEARNER = "mu-100/8"
ACTOR = "mu-1000/8"
SIDE = 32


def made_images(folder: Path, *, count: int = 8192) -> Path:
    """An .npz file of ``count`` random images of ten classes, 3 x 32 x 32."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    path = folder / "images.npz"
    np.savez(path, images=images, labels=random.integers(0, 10, count))
    return path


def small_run(name: str, data: Path, out: Path, *, steps: int) -> Config:
    """Recipe ``name`` on ``data`` for ``steps`` updates, augmented; its reference learns once."""
    return resolved(
        recipe(name).changed(
            steps=steps,
            out=str(out),
            device="cpu",
            data={
                "path": str(data),
                "evaluation_fraction": 0.02,
                "flip": True,
                "crop_padding": 4,
            },
            select={"super_batch_size": SUPER_BATCH_SIZE, "sub_batch_size": SUB_BATCH_SIZE},
            models={"learner": LEARNER, "online": ACTOR, "reference": ACTOR},
            reference_training={"steps": 1},
            record={"log_every": 1, "evaluate_every": steps},
        )
    )
