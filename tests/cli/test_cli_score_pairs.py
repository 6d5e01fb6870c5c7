"""``superbatch score`` of pairs: broken images, and open_clip's folders."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from made_shards import add, write_digits
from superbatch.checkpoint import save_weights
from superbatch.cli import main
from superbatch.errors import CheckpointError
from superbatch.models.two_tower import build_two_tower
from superbatch.problems.weights import weights_hash
from superbatch.sources.tokens import VOCABULARY


pytest.importorskip("open_clip", reason="models of pairs need the extra [clip]")

CONTEXT = 10
TINY = [
    "--steps=2",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
    "--data.eval-path=test.tar",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 151 pairs, of which the image of the last is broken, and a checkpoint."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write_digits("pool.tar", 0, 150, captions=1)
        write_digits("test.tar", 150, 10, captions=1)
        with tarfile.open("pool.tar", "a") as tar:
            add(tar, "broken.png", b"no picture")
            add(tar, "broken.txt", b"a picture that is none")
        sizes = {"image_size": 8, "context": CONTEXT, "vocabulary": VOCABULARY}
        model = build_two_tower("mu-2400/4", **sizes, sigmoid=False, seed=3)
        about = sizes | {"task": "image_text", "model": "mu-2400/4", "loss": "softmax"}
        save_weights(Path("model.safetensors"), model.state_dict(), about)
        yield folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))


def score(*flags):
    return main(["score", "--model=model.safetensors", "--data.path=pool.tar", *flags, "--json"])


@pytest.mark.parametrize("memory", ["--data.memory-gb=2", "--data.memory-gb=0"])
def test_a_broken_image_spoils_neither_the_table_nor_what_it_is_for(memory, capsys, tmp_path):
    out = str(tmp_path / "table.parquet")
    assert score(memory, "--out", out) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["skipped"]) == (150, 1)
    assert score(memory, "--out", out) == 0  # it is finished
    capsys.readouterr()
    run = ["--reference", out, memory, "--data.path=pool.tar", f"--data.context={CONTEXT}"]
    words = ["train", "active_clip", *TINY, *run, "--json"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    longer = ["--data.context=16", "--out", str(tmp_path / "no")]
    assert main([*words, *longer]) == 2
    assert "captions cut to 10 tokens' and is to be used with" in capsys.readouterr().err


def test_what_a_table_left_out_may_be_looked_at_again(capsys, tmp_path):
    """Over the memory, which images are broken shows when they are read: 1 of 1 here."""
    part, out = (str(tmp_path / name) for name in ("part.parquet", "all.parquet"))
    assert score("--out", part) == 0
    capsys.readouterr()
    assert score("--append", part, "--data.memory-gb=0", "--out", out) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["skipped"]) == (150, 1)
    assert pq.read_table(out)["loss"].equals(pq.read_table(part)["loss"])
    assert score("--append", part, "--out", str(tmp_path / "no.parquet")) == 2
    assert "covers all of pool.tar already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_pytorch_model.bin"])
def test_the_weights_of_an_open_clip_folder_have_several_names(name, tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no weights that open_clip would find"):
        weights_hash(str(tmp_path))
    shutil.copy("model.safetensors", tmp_path / name)
    assert weights_hash(f"local-dir:{tmp_path}") == weights_hash("model.safetensors")
    assert weights_hash(str(tmp_path)) == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
