"""The documentation: nothing is left out of the API pages, and every command in it exists."""

import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import BaseModel

import superbatch
from superbatch.bank import Draw
from superbatch.cli import COMMANDS, main
from superbatch.selection import sample_indices


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def extension(name):
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_module_has_a_place_in_the_api():
    api = extension("api")
    found = api.rooms()
    text = "\n".join(api.page(name, inside) for name, inside in found.items())
    documented = re.findall(r"automodule:: (\S+)", text)
    modules = [
        module.name
        for module in pkgutil.walk_packages(superbatch.__path__, "superbatch.")
        if not module.name.startswith(("superbatch.cli", "superbatch.__main__"))
    ]
    assert sorted(documented) == sorted(modules)
    assert len(modules) > 50


def test_a_package_names_what_it_takes_in():
    text = extension("api").page("superbatch.report", ["superbatch.report.read"])
    assert "~superbatch.report.read.Run" in text
    assert "~superbatch.report.speedup.compare_runs" in text


class Settings(BaseModel):
    """Of nothing."""

    field: int = 1


class Face(Protocol):
    """Nobody makes one."""


def test_signatures_are_as_written():
    signature = extension("as_written").signature
    assert signature("function", sample_indices) == (
        "(scores: Float[Tensor, 'B'], size: int, *, temperature: float=1.0, "
        "generator: Generator | None=None)",
        "Int[Tensor, 'b']",
    )
    parameters, _ = signature("class", Draw)
    assert parameters.startswith("(examples: Batch, index: Int[Tensor, 'b'], scores: ")
    method = superbatch.bank.MemoryBank.sample
    assert signature("method", method) == ("(count: int)", "Draw")
    assert signature("class", Settings) == ("", None)
    assert signature("class", Face) == ("", None)
    assert signature("function", len) is None


def commands(text):
    """Every call of ``superbatch`` in the blocks of a page, as words."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("!")
            if line.startswith("superbatch ") and "COMMAND" not in line:
                yield re.split(r"\s#\s|\s2>", line)[0].split()[1:]


@pytest.fixture(scope="module")
def flags():
    """What the help of a command names, asked for once."""
    known = {}

    def flags(command, capsys):
        if command not in known:
            assert main([*command, "--help"]) == 0
            known[command] = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
        return known[command]

    return flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_flag_in_the_documents_exists(page, flags, capsys):
    for words in commands(page.read_text(encoding="utf-8")):
        assert words[0] in COMMANDS, words
        of = (words[0], words[1]) if words[0] == "table" else (words[0],)
        for word in words:
            if word.startswith("--"):
                assert word in flags(of, capsys), f"{word} in {' '.join(words)}"


def test_the_documents_have_commands_to_check():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sum(len(list(commands(text))) for text in texts) > 30
    assert list(commands("```\nsuperbatch nonsense \\\n  --flag 3   # why\n```\n")) == [
        ["nonsense", "--flag", "3"]
    ]
