"""``python benchmarks/paper``: see `paper.command`."""

import sys
from pathlib import Path


if __name__ == "__main__":
    # Python puts this folder first; the package is beside the other benchmarks.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from paper.command import main

    raise SystemExit(main())
