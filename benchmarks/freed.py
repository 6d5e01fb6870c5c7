"""Seconds of updates on the CPU where freed memory is kept, over those where it is given back.

    python benchmarks/freed.py [--rounds 3] [--models conv-8/2 conv-32/2]

Each model in processes of its own, in alternation: what glibc does with memory is decided once in a
process. Seconds are of the processor, the system's part included.
"""

import argparse
import statistics
import subprocess
import sys
import time

from ratios import verdict


LIMIT = 1.0
SIDE, LEARNED, UPDATES = 32, 128, 12


def update_seconds(model: str, *, keep: bool) -> float:
    """The median of some updates in a process of their own."""
    words = [sys.executable, __file__, "--inside", model, *(["--keep"] if keep else [])]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def inside(name: str, *, keep: bool) -> float:
    """Those updates, in this process."""
    import torch

    from superbatch.devices import keep_freed_memory
    from superbatch.models.build import build_model

    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    model = build_model(name, image_size=SIDE, channels=3, classes=10, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(LEARNED, 3, SIDE, SIDE), torch.arange(LEARNED) % 10
    took = []
    for _ in range(UPDATES):
        began = time.process_time()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.process_time() - began)
    return statistics.median(took)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    options.add_argument("--models", nargs="+", default=["conv-8/2", "conv-32/2", "mu-300/8"])
    options.add_argument("--inside", help=argparse.SUPPRESS)
    options.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.inside:
        print(inside(given.inside, keep=given.keep))
        return 0
    holds = True
    for model in given.models:
        shares = [
            update_seconds(model, keep=True) / update_seconds(model, keep=False)
            for _ in range(given.rounds)
        ]
        holds &= verdict(f"{model}: an update, memory kept", statistics.median(shares), LIMIT)
    return not holds


if __name__ == "__main__":
    sys.exit(main())
