"""Shards in a folder, and a cache of indices of its own."""

import pytest
from made_tars import TWO, tar_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    for name in ("b-01.tar", "b-00.tar", "a.tar"):
        (root / name).write_bytes(tar_of(*TWO))
    (root / "notes.md").write_text("words")
    return root
