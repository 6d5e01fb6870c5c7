"""A full disk: one message, nothing lost, and with space again the run that would have been."""

import errno
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from superbatch.cli import main
from superbatch.errors import Failed


RUN = [
    "train",
    "classact",
    "--steps=6",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--models.reference=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
    "--reference-training.steps=4",
    "--record.log-every=1",
    "--record.checkpoint-every=2",
    "--record.evaluate-every=3",
    "--record.keep-checkpoints=1",
]


def without_time(row):
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def outcome(folder):
    """Everything a run leaves that is not a time or a path."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = sorted((folder / "selection").glob("*.parquet"))
    weights = {
        path.name: {name: value.tolist() for name, value in load_file(path).items()}
        for path in sorted((folder / "checkpoints").glob("*.safetensors"))
    }
    summary = without_time(json.loads((folder / "summary.json").read_text()))
    del summary["checkpoint"], summary["reference"]
    return {
        "metrics": [without_time(row) for row in metrics],
        "selection": pa.concat_tables([pq.read_table(part) for part in parts]).to_pydict(),
        "weights": weights,
        "summary": summary,
    }


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """What the run comes to where nothing happens to it."""
    out = tmp_path_factory.mktemp("through") / "run"
    assert main([*RUN, "--out", str(out)]) == 0
    return outcome(out)


def only_message(capsys):
    """The message that ended a command; progress may have come before it."""
    err = capsys.readouterr().err
    messages = re.findall(r"^superbatch: .*\n", err, flags=re.MULTILINE)
    assert len(messages) == 1, err
    assert err.endswith(messages[0])
    assert "Traceback" not in err
    return messages[0]


def continued(out):
    """Go on as the message says: --resume, or the same command where no run had begun."""
    begun = (out / "config.json").exists()
    return main(["train", "--resume", str(out)] if begun else [*RUN, "--out", str(out)])


class Full:
    """A file that takes half of what is written, and then the disk is full."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_at(monkeypatch):
    """The disk is full whenever files of one place in the run are written, but for the first."""

    def arrange(out, place, *, spared=0):
        opened, write_table, count = pathlib.Path.open, pq.write_table, 0

        def is_full(path):
            nonlocal count
            # Files are written beside their place, as .<name>.<8 letters>.
            name = re.fullmatch(r"\.(.+)\.\w{8}", path.name)
            target = path.with_name(name[1]) if name else path
            if not target.is_relative_to(out) or not re.fullmatch(
                place, target.relative_to(out).as_posix()
            ):
                return False
            count += 1
            return count > spared

        def opens(path, mode="r", *rest, **options):
            file = opened(path, mode, *rest, **options)
            return Full(file) if mode[0] in "wa" and is_full(path) else file

        def writes(table, where, **options):
            if is_full(where):
                raise OSError(errno.ENOSPC, "No space left on device")
            write_table(table, where, **options)

        monkeypatch.setattr(pathlib.Path, "open", opens)
        monkeypatch.setattr(pq, "write_table", writes)

    return arrange


@pytest.mark.parametrize(
    ("place", "spared"),
    [
        ("config.json", 0),
        ("environment.json", 0),
        ("metrics.jsonl", 3),
        (r"selection/.*\.parquet", 1),
        (r"checkpoints/step-\d+\.pt", 2),
        (r"checkpoints/learner\.safetensors", 0),
        ("summary.json", 0),
        ("reference/config.json", 0),
        ("reference/metrics.jsonl", 1),
        (r"reference/checkpoints/step-\d+\.pt", 1),
        ("reference/summary.json", 0),
    ],
)
def test_the_disk_is_full_at(place, spared, full_at, tmp_path, capsys, through, monkeypatch):
    out = tmp_path / "run"
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    full_at(out, place, spared=spared)
    assert main([*RUN, "--out", str(out)]) == 1
    message = only_message(capsys)
    assert "no space left on the device while writing" in message
    assert "--resume" in message
    assert continued(out) == 1  # still full
    assert "no space left on the device while writing" in only_message(capsys)
    monkeypatch.undo()
    assert continued(out) == 0
    assert outcome(out) == through
    assert not list(out.glob("**/.*"))
    assert other.read_text() == "mine"


def resized(folder, size, *, new):
    """Mount a file system of ``size`` at ``folder``, or give the one there another size."""
    options = ["-o", f"size={size}" if new else f"remount,size={size}"]
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 1 MB, and a way to give it another size."""
    if not sys.platform.startswith("linux") or not shutil.which("mount"):
        pytest.skip("a small disk is mounted with Linux's mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = resized(folder, "1m", new=True)
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a small disk: {mounted.stderr.strip()}")
    yield folder, lambda size: resized(folder, size, new=False)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", ["4k", "200k", "1m", "3m"])
def test_a_real_disk_is_full(size, small_disk, capsys, through):
    disk, resize = small_disk
    assert resize(size).returncode == 0
    assert main([*RUN, "--out", str(disk / "run")]) == 1
    assert "no space left on the device while writing" in only_message(capsys)
    assert resize("64m").returncode == 0
    assert continued(disk / "run") == 0
    assert outcome(disk / "run") == through


def test_an_export_that_finds_no_room(small_disk):
    pytest.importorskip("open_clip")
    from superbatch.models.export import export_open_clip
    from superbatch.models.two_tower import build_two_tower

    disk, _ = small_disk
    sizes = {"image_size": 8, "context": 8, "vocabulary": 9_000}  # 1.7 MB of embeddings
    model = build_two_tower("mu-2400/8", **sizes, sigmoid=False, seed=0)
    with pytest.raises(Failed, match="no space left on the device while writing"):
        export_open_clip(model, disk / "new")
    assert not list((disk / "new").iterdir())
