"""Peak memory of classact against uniform.

    python benchmarks/memory.py [--steps 3] [--rounds 3]

Each run is a process of its own, whose peak is what the operating system says. Exits with 1 if the
peak of classact is over 1.15 times that of uniform, plus the two small models (weights, and the
online one's optimiser states), plus one super-batch of pixels.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ratios import verdict


RATIO_LIMIT = 1.15

# What a process measures of itself. Here torch is not imported: a child's peak would start at ours.
CHILD = """
import json, resource, sys
from pathlib import Path
from small_run import small_run
from superbatch import training
from superbatch.problems import problem_of
name, data, out, steps = sys.argv[1:]
config = small_run(name, Path(data), Path(out), steps=int(steps))
training.start(config)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loaded = problem_of(config)
weights = sum(p.nbytes for p in loaded.model("online").parameters())
pixels = loaded.examples.read(loaded.rows[: config.select.super_batch_size])["image"].nbytes
peak *= 1 if sys.platform == "darwin" else 1024
print(json.dumps({"peak": peak, "models": 4 * weights, "super_batch": pixels}))
"""


def measured(recipe: str, data: Path, out: Path, steps: int) -> dict[str, int]:
    """Bytes: the peak of a run of ``recipe``, its two small models, and its super-batch."""
    command = [sys.executable, "-c", CHILD, recipe, str(data), str(out), str(steps)]
    here = Path(__file__).parent
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=here)
    sizes: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return sizes


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=3, help="steps of each run")
    options.add_argument("--rounds", type=int, default=3, help="runs of each recipe")
    given = options.parse_args()
    peaks: dict[str, list[int]] = {"uniform": [], "classact": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = "import sys; from pathlib import Path; from small_run import made_images\n"
        make += "made_images(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", make, name], check=True, cwd=Path(__file__).parent)
        for number in range(given.rounds):
            for recipe, of in peaks.items():
                out = folder / f"{recipe}-{number}"
                sizes = measured(recipe, folder / "images.npz", out, given.steps)
                of.append(sizes["peak"])
    uniform, classact = (statistics.median(of) for of in peaks.values())
    extra = sizes["models"] + sizes["super_batch"]
    print(f"uniform {uniform / 1e6:.0f} MB, classact {classact / 1e6:.0f} MB")
    print(
        f"two small models {sizes['models'] / 1e6:.1f} MB, "
        f"one super-batch {sizes['super_batch'] / 1e6:.1f} MB"
    )
    return not verdict(
        "peak of classact less those, over uniform's", (classact - extra) / uniform, RATIO_LIMIT
    )


if __name__ == "__main__":
    sys.exit(main())
