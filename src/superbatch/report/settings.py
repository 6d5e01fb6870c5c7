"""How the runs were set, what they ran on, and the commands that repeat them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superbatch.report.read import Run


@dataclass(frozen=True)
class Settings:
    """``differences`` and ``environment``: rows of a name and one value a recipe.

    ``configurations`` are the whole configurations as text by recipe, ``commands`` what was typed
    and which runs it started.
    """

    recipes: tuple[str, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    environment: tuple[tuple[str, tuple[str, ...]], ...]
    configurations: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, tuple[str, ...]], ...]


OWN = ("seed", "out", "recipe")
"""Settings that every run has for itself."""


def read_settings(runs: Mapping[str, Sequence[Run]]) -> Settings:
    """The settings of ``runs`` by recipe; those of its first seed stand for a recipe."""
    first = [seeds[0] for seeds in runs.values()]
    configs = [_flat(run.config) for run in first]
    names = dict.fromkeys(name for config in configs for name in config if name not in OWN)
    rows = [(name, tuple(config.get(name, "-") for config in configs)) for name in names]
    differences = tuple(row for row in rows if len(set(row[1])) > 1)
    environments = [_flat(run.environment) for run in first]
    names = dict.fromkeys(name for environment in environments for name in environment)
    return Settings(
        recipes=tuple(runs),
        differences=differences,
        environment=tuple(
            (name, tuple(environment.get(name, "-") for environment in environments))
            for name in names
            if name != "command"
        ),
        configurations=tuple(
            (recipe, json.dumps(seeds[0].config, indent=2)) for recipe, seeds in runs.items()
        ),
        commands=tuple((command, tuple(names)) for command, names in _commands(runs).items()),
    )


def _commands(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[str]]:
    commands: dict[str, list[str]] = {}
    for recipe, seeds in runs.items():
        for run in seeds:
            if command := command_line(run):
                commands.setdefault(command, []).append(f"{recipe}, seed {run.seed}")
    return commands


def command_line(run: Run) -> str | None:
    """What was typed to start ``run``, quoted for a shell; None where it was not kept."""
    command = run.environment.get("command")
    if isinstance(command, list) and command:
        program, *words = map(str, command)
        return shlex.join([Path(program).name, *words])
    return str(command) if command else None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = inner if isinstance(inner, str) else json.dumps(inner)
    return flat
