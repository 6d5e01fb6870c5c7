"""What weights cost on their way through Ray's object store, over a plain copy of them.

    python benchmarks/ray_weights.py [--parameters 22000000] [--rounds 10]

Puts the weights of a model (22 million parameters: ViT-S) into the store of a Ray of this host,
gets them from it, and copies them into a model of the same shape, as publishing learners and actors
do; the same with torch's own tensors instead of numpy's arrays, which Ray pickles. Medians, over
the time of a plain copy from tensor to tensor. Exits with 1 if arrays are not read where they lie.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
import torch

from superbatch.actors.ray import lent


def seconds(act: Callable[[], object], rounds: int) -> float:
    """Of one call of ``act``, the median."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def shared(array: np.ndarray) -> bool:
    """Whether ``array`` lies in memory that processes share (Linux)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        first, last = (int(end, 16) for end in words[0].split("-"))
        if first <= array.ctypes.data < last:
            return words[1].endswith("s")
    return False


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--parameters", type=int, default=22_000_000)
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    torch.set_num_threads(1)
    learned = {f"layer {n}": torch.randn(given.parameters // 50) for n in range(50)}
    model = {name: torch.zeros_like(tensor) for name, tensor in learned.items()}
    arrays = {name: tensor.numpy() for name, tensor in learned.items()}
    store = 30 * 4 * given.parameters
    ray.init(
        address="local", include_dashboard=False, object_store_memory=store, logging_level="error"
    )

    def load(stored: object, read: Callable[[object], torch.Tensor]) -> None:
        for name, found in ray.get(stored).items():
            model[name].copy_(read(found))

    def copy() -> None:
        for name, tensor in learned.items():
            model[name].copy_(tensor)

    plain = seconds(copy, given.rounds)
    as_arrays, as_tensors = ray.put(arrays), ray.put(learned)
    found = ray.get(as_arrays)
    rows = {
        "arrays, put": seconds(lambda: ray.put(arrays), given.rounds),
        "arrays, get": seconds(lambda: ray.get(as_arrays), given.rounds),
        "arrays, get and load": seconds(lambda: load(as_arrays, lent), given.rounds),
        "tensors, put": seconds(lambda: ray.put(learned), given.rounds),
        "tensors, get": seconds(lambda: ray.get(as_tensors), given.rounds),
        "tensors, get and load": seconds(lambda: load(as_tensors, lambda one: one), given.rounds),
    }
    print(f"a copy of {4e-6 * given.parameters:.0f} MB: {1e3 * plain:.1f} ms; over that")
    for what, taken in rows.items():
        print(f"  {what:24}{taken / plain:8.3f}")
    in_place = all(shared(array) and not array.flags.writeable for array in found.values())
    print(f"arrays are read where they lie: {in_place}")
    ray.shutdown()
    return 0 if in_place else 1


if __name__ == "__main__":
    sys.exit(main())
