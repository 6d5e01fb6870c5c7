"""Breaks the code on purpose, one line at a time, and expects the tests to notice.

    python scripts/mutants.py [NAME ...]

Each entry of tests/mutants.toml is a file, a text in it, another text in its place, and the test
files that must fail. They run against a copy; the sources are not touched. Exits with 1 if a
breakage goes unnoticed, or if its text is no longer in the file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


ROOT = Path(__file__).parents[1]


def verdict(name: str, mutant: dict[str, str]) -> str:
    """ "caught", or what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "superbatch"
        shutil.copytree(ROOT / "src" / "superbatch", copy)
        file = copy / mutant["file"]
        text = file.read_text()
        if text.count(mutant["from"]) != 1:
            return (
                f"{mutant['from']!r} stands {text.count(mutant['from'])} times in {mutant['file']}"
            )
        file.write_text(text.replace(mutant["from"], mutant["to"]))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        result = subprocess.run(
            command + mutant["tests"].split(),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": scratch, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    # 1 is "tests failed"; anything else is a run that broke for another reason.
    if result.returncode == 1:
        return "caught"
    return f"NOT CAUGHT (pytest ended with {result.returncode})\n{result.stdout[-2000:]}"


def main() -> int:
    """Try every mutant, or those named."""
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    wanted = {name: mutants[name] for name in sys.argv[1:] or mutants}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        verdicts = dict(zip(wanted, pool.map(lambda n: verdict(n, wanted[n]), wanted), strict=True))
    for name, said in verdicts.items():
        print(f"{name}: {said}")
    uncaught = [name for name, said in verdicts.items() if said != "caught"]
    print(f"{len(verdicts) - len(uncaught)} of {len(verdicts)} breakages caught")
    return bool(uncaught)


if __name__ == "__main__":
    sys.exit(main())
