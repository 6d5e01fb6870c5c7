"""Drawing from a keyed permutation against drawing plain random integers.

    python benchmarks/permutation.py

Exits with 1 if the ratio of the times is over 20, or if the memory taken depends on the length of
the permutation rather than on how many ids are drawn from it.
"""

import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from superbatch.sources.permutation import permuted


LENGTH = 1_000_000_000
DRAWN = 32_768
LIMIT = 20.0
ALTERNATIONS = 15
REPEATS = 5
BYTES_PER_ID = 128  # a handful of temporary arrays of 8 bytes an id


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(REPEATS):
        action()
    return (time.perf_counter() - start) / REPEATS


def peak_bytes(drawn: int, length: int) -> int:
    positions = np.arange(drawn, dtype=np.int64)
    tracemalloc.start()
    permuted(positions, length=length, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> int:
    generator = np.random.default_rng(0)
    positions = np.arange(DRAWN, dtype=np.int64) + LENGTH // 3
    ids, plain = [], []
    for _ in range(ALTERNATIONS):
        ids.append(seconds(lambda: permuted(positions, length=LENGTH, seed=0)))
        plain.append(seconds(lambda: generator.integers(0, LENGTH, DRAWN)))
    ratio = statistics.median(a / b for a, b in zip(ids, plain, strict=True))
    print(f"{DRAWN} ids of a permutation of {LENGTH:.0e}: {1e3 * statistics.median(ids):.2f} ms")
    print(f"{DRAWN} plain random integers: {1e3 * statistics.median(plain):.2f} ms")
    print(f"ratio: {ratio:.1f} (limit {LIMIT:.0f})")

    bytes_per_id = 0.0
    for drawn in (DRAWN // 4, DRAWN, 4 * DRAWN):
        peak = peak_bytes(drawn, LENGTH)
        bytes_per_id = max(bytes_per_id, peak / drawn)
        print(f"peak memory for {drawn} ids: {peak / 1e6:.2f} MB ({peak / drawn:.0f} bytes an id)")
    print(f"bytes an id: at most {bytes_per_id:.0f} (limit {BYTES_PER_ID})")
    return int(ratio > LIMIT or bytes_per_id > BYTES_PER_ID)


if __name__ == "__main__":
    sys.exit(main())
