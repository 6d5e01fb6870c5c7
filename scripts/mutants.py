"""Breaks the code on purpose, one line at a time, and expects the tests to notice.

    python scripts/mutants.py [NAME ...]

Each entry of tests/mutants.toml is a file, a text in it, another text in its place, and the test
files that must fail. They run against a copy; the sources are not touched. Exits with 1 if a
breakage goes unnoticed, or if its text is no longer in the file.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "torchvision", "sklearn.datasets", "scipy.stats", "pyarrow.parquet"]
"""What most tests import, and is imported once for all breakages: most of their time went there."""

ENDS = 10
"""With this and pytest's status a process ends, so that one that never came so far is not taken for
one whose tests failed."""

processes = multiprocessing.get_context("forkserver")


def run_tests(package: Path, words: list[str], said: Path) -> None:
    """Ends as ``ENDS`` tells; ``superbatch`` is the one in the folder ``package``."""
    sys.path.insert(0, str(package))
    os.environ["PYTHONPATH"] = str(package)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(ENDS + pytest.main(["-x", "-q", "-p", "no:cacheprovider", *words]))


def outcome(mutant: dict[str, str]) -> str:
    """ "passed" or "failed", of the tests with ``mutant``; or why that is not known."""
    with tempfile.TemporaryDirectory() as scratch:
        package, said = Path(scratch) / "package", Path(scratch) / "said"
        shutil.copytree(ROOT / "src" / "superbatch", package / "superbatch")
        file = package / "superbatch" / mutant["file"]
        text = file.read_text()
        if text.count(mutant["from"]) != 1:
            return (
                f"{mutant['from']!r} stands {text.count(mutant['from'])} times in {mutant['file']}"
            )
        file.write_text(text.replace(mutant["from"], mutant["to"]))
        tests = processes.Process(target=run_tests, args=(package, mutant["tests"].split(), said))
        tests.start()
        tests.join()
        if tests.exitcode == ENDS + pytest.ExitCode.OK:
            return "passed"
        if tests.exitcode == ENDS + pytest.ExitCode.TESTS_FAILED:
            return "failed"
        return f"ended with {tests.exitcode}\n{said.read_text()[-2000:]}"


def main() -> int:
    """Try every mutant, or those named."""
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    wanted = {name: mutants[name] for name in sys.argv[1:] or mutants}
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    processes.set_forkserver_preload(HEAVY)
    first = next(iter(wanted.values()))
    unbroken = outcome(first | {"to": first["from"]})
    if unbroken != "passed":
        print(f"{first['tests']} without a breakage: {unbroken}")
        return 1
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = dict(zip(wanted, pool.map(outcome, wanted.values()), strict=True))
    for name, each in found.items():
        print(f"{name}: {'caught' if each == 'failed' else f'NOT CAUGHT, tests {each}'}")
    caught = sum(each == "failed" for each in found.values())
    print(f"{caught} of {len(found)} breakages caught")
    return int(caught < len(found))


if __name__ == "__main__":
    sys.exit(main())
