"""Lower modules never import higher ones."""

import ast
from pathlib import Path

import superbatch


ROOT = Path(superbatch.__file__).parent
LAYERS = [
    [
        "types",
        "errors",
        "seeds",
        "clock",
        "files",
        "integers",
        "prefixes",
        "surroundings",
        "distributed",
    ],
    ["launch", "sharding", "devices"],
    ["measures", "criterion", "curriculum", "selection", "tasks", "models", "sources"],
    ["limits", "bank", "joint", "parted", "passes", "learner", "cost", "flops", "tables"],
    ["actors", "evaluation"],
    ["loop", "selector"],
    ["integrations"],
    ["run", "checkpoint", "record", "chosen", "orders", "mirror", "environment"],
    [
        "config",
        "roles",
        "checks",
        "places",
        "problems",
        "reference_run",
        "references",
        "own_references",
        "feed",
        "build",
        "courses",
        "enlist",
        "logbook",
        "recipes",
        "state",
        "training",
        "group",
        "scoring",
    ],
    ["report"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def room(path):
    """``models/build.py`` is in the room ``models``."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module, names = node.module, [alias.name for alias in node.names]
            if module == "superbatch":
                yield from (name for name in names if name in LEVEL)
            elif module.startswith("superbatch."):
                yield module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("superbatch."):
                    yield alias.name.split(".")[1]


MODULES = [
    path for path in sorted(ROOT.rglob("*.py")) if path.name != "__init__.py" or path.parent != ROOT
]


def test_every_module_has_a_layer():
    assert {room(path) for path in MODULES} == set(LEVEL)


def test_imports_go_down():
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if LEVEL[name] > LEVEL[room(path)]
    ]
    assert not upward


def test_the_report_sees_no_model():
    seen = {name for path in (ROOT / "report").rglob("*.py") for name in imported(path)}
    assert not seen & {"models", "learner", "build", "training", "tasks", "actors"}
