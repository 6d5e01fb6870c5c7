"""Killed at any instant, ``superbatch score`` makes the same table in the end."""

import json
import subprocess
import sys

from superbatch.checkpoint import save_weights
from superbatch.models.build import build_model


KILLER = '''
"""Run a command in a child again and again, killing it; then let it finish.

Forking what has imported everything costs milliseconds where starting Python costs seconds.
"""
import json, os, random, signal, sys, time
from pathlib import Path

from superbatch.cli import main


def start(words):
    child = os.fork()
    if child == 0:
        os._exit(main(words))
    return child


def blocks(parts):
    return {path.name: path.stat().st_ino for path in parts.glob("*.parquet")}


words = sys.argv[1:]
out = Path("t.parquet")
parts, dice = Path("t.parquet.parts"), random.Random(0)
assert main(words) == 0  # and everything is imported
out.rename("whole.parquet")
kept = []
for _ in range(10):
    before = blocks(parts) if parts.exists() else {}
    child = start(words)
    wanted = len(before) + dice.randint(1, 3)
    deadline = time.monotonic() + 60
    while (not parts.exists() or len(blocks(parts)) < wanted) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(dice.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = blocks(parts)
    # What was finished before is the same file still: it was not scored, nor written, again.
    kept.append(all(after.get(name) == node for name, node in before.items()) and len(after))
assert main(words) == 0
print(json.dumps(kept))
'''


def test_ten_kills_change_nothing(tmp_path):
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    about = {"task": "classification", "model": "mu-2400/4", "image_size": 8}
    about |= {"channels": 1, "classes": 10}
    save_weights(tmp_path / "m.safetensors", model.state_dict(), about)
    (tmp_path / "killer.py").write_text(KILLER)
    flags = ["--model", "m.safetensors", "--out", "t.parquet", "--json"]
    done = subprocess.run(
        [sys.executable, "killer.py", "score", *flags, "--block-size=8", "--batch-size=8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout.splitlines()[-1])
    assert False not in kept, kept
    assert kept == sorted(kept)
    assert 10 <= kept[-1] < 225  # of 225 blocks: it was under way at every kill
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "t.parquet.parts").exists()
