"""What docs/results.md says of the paper's claims is what the files beside it say."""

import json
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "results").glob("paper-*.json"))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_published_arm_stands_in_the_tables(path):
    from paper.publish import interval, spread, table

    found = json.loads(path.read_text())
    assert table(found)
    page = (ROOT / "docs" / "results.md").read_text()
    for study in found["studies"]:
        assert study["arms"]
        for arm in study["arms"]:
            assert spread(arm["final"], "{:.4f}") in page, (study["data"], arm["name"])
            if arm["name"] != arm["baseline"] and found["claim"] not in ("C2", "C6"):
                said = interval(arm["difference"], "{:+.4f}")
                assert said in page, (study["data"], arm["name"])


def test_there_are_some():
    assert len(FILES) >= 9
