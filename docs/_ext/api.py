"""One page for each room of the library, found, not listed: ``docs/api`` is made at each build.

A room is a module, or a package with all of its modules. The command line is no API.
"""

import ast
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


SOURCE = Path(__file__).parents[2] / "src" / "superbatch"
NO_API = ("cli", "__main__")


def rooms(source: Path = SOURCE) -> dict[str, list[str]]:
    """Every public room by its dotted name, with the modules inside."""
    found = {}
    for path in sorted(source.iterdir()):
        is_room = path.suffix == ".py" or (path / "__init__.py").exists()
        if is_room and path.stem not in (*NO_API, "__init__"):
            inside = sorted(path.rglob("[!_]*.py"))
            found[dotted(path, source)] = [dotted(one, source) for one in inside]
    return found


def dotted(path: Path, source: Path) -> str:
    """``superbatch.report.read`` of ``src/superbatch/report/read.py``."""
    return ".".join(path.relative_to(source.parent).with_suffix("").parts)


def index(names: list[str]) -> str:
    """The page that leads to all others."""
    listed = "".join(f"   {name}\n" for name in names)
    words = (
        "In shapes, ``B`` is the super-batch, ``b`` the sub-batch, ``n`` any count and ``C`` the "
        "classes. What begins with an underscore is nobody's business.\n"
    )
    toctree = f".. toctree::\n   :hidden:\n\n{listed}"
    return "\n".join([heading("API", "="), words, summary(names), toctree])


def page(name: str, inside: list[str], source: Path = SOURCE) -> str:
    """The text of the page of the room ``name``."""
    parts = [heading(name, "="), automodule(name)]
    package = source.parent / Path(*name.split(".")) / "__init__.py"
    if package.exists() and (taken := taken_in(package)):
        parts += ["Names of this package:\n", summary([f"~{one}" for one in taken])]
    for module in inside:
        parts += [heading(module, "-"), automodule(module)]
    return "\n".join(parts)


def heading(name: str, line: str) -> str:
    """``name``, underlined."""
    return f"{name}\n{line * len(name)}\n"


def automodule(name: str) -> str:
    """All that the module ``name`` defines; what comes after belongs to no module."""
    return (
        f".. automodule:: {name}\n   :members:\n   :ignore-module-all:\n\n"
        ".. py:currentmodule:: None\n"
    )


def summary(names: list[str]) -> str:
    """A table of ``names`` with the first line of each docstring."""
    return ".. autosummary::\n   :nosignatures:\n\n" + "".join(f"   {one}\n" for one in names)


def taken_in(package: Path) -> list[str]:
    """Where the names come from that a package's ``__init__`` takes in and exports."""
    tree = ast.parse(package.read_text(encoding="utf-8"))
    exported = {
        value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for value in ast.literal_eval(node.value)
    }
    return sorted(
        f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in exported
    )


def write_pages(app: Sphinx) -> None:
    """Write the pages that have changed, and remove those of rooms that are gone."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    found = rooms()
    pages = {name: page(name, inside) for name, inside in found.items()}
    pages["superbatch"] = index(list(found))
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the pages before Sphinx looks for any."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
