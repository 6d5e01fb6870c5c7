"""What the documents say exists, exists."""

import importlib
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
SYMBOL = re.compile(r"`(superbatch(?:\.\w+)+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def resolve(dotted):
    """The object that ``superbatch.a.b`` names, whether the last part is a module or not."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


def paper_map():
    return (ROOT / "docs" / "paper-map.md").read_text()


def test_the_paper_map_has_no_dead_symbol():
    symbols = SYMBOL.findall(paper_map())
    assert len(symbols) > 20
    for symbol in symbols:
        assert resolve(symbol) is not None, symbol


def test_the_paper_map_has_no_dead_test():
    tests = TEST.findall(paper_map())
    assert len(tests) > 20
    for path, name in tests:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_a_dead_symbol_would_be_noticed():
    with pytest.raises(AttributeError):
        resolve("superbatch.criterion.no_such_criterion")


def test_the_constraints_name_no_host():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|--index|--find-links| @ ", text)
    assert re.search(r"^torch==", text, re.MULTILINE)


def test_public_names_are_sorted_and_there():
    for path in sorted((ROOT / "src").rglob("__init__.py")):
        dotted = ".".join(path.relative_to(ROOT / "src").parent.parts)
        module = importlib.import_module(dotted)
        names = getattr(module, "__all__", [])
        assert list(names) == sorted(names), dotted
        assert all(hasattr(module, name) for name in names), dotted
