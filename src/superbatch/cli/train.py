"""``superbatch train``: one run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from superbatch import launch
from superbatch.checks import check
from superbatch.cli.settings import JsonSwitch, Settings, leading_words, parse, read_config
from superbatch.config import Config
from superbatch.errors import ConfigError
from superbatch.recipes import RECIPES, recipe, resolved


class Train(BaseModel):
    """superbatch train RECIPE [flags] | --config FILE [flags] | --resume RUN."""

    settings: Settings = Config()
    json_: JsonSwitch = False
    """Print the summary as JSON instead of a table."""


def run(argv: Sequence[str]) -> int:
    """Train with the recipe, configuration or run that ``argv`` names."""
    arguments, resumed = arguments_of(argv)
    check(resolved(arguments.settings))
    from superbatch import training  # slow to import: only once the flags are known to be good
    from superbatch.cli.progress import show_summary, watched

    quiet = arguments.json_ or not launch.first()
    with launch.joined(patience(arguments, resumed)), watched(quiet=quiet) as around:
        if resumed is None:
            summary = training.start(arguments.settings, around)
        else:
            summary = training.resume(resumed, around)
    show(summary, as_json=arguments.json_, table=show_summary)
    return 0


def patience(arguments: Train, resumed: Path | None) -> float:
    """How long a rank waits for others, by the run that is resumed or the one that is begun."""
    settings = arguments.settings
    if resumed is not None and (resumed / "config.json").is_file():
        settings = read_config(str(resumed / "config.json"))
    return settings.ranks.timeout_seconds


def arguments_of(argv: Sequence[str]) -> tuple[Train, Path | None]:
    """The settings, and the run to resume if one is named."""
    words, flags = leading_words(argv)
    resumed = take_option(flags, "--resume")
    config_file = take_option(flags, "--config")
    if len(words) > 1:
        raise ConfigError(f"train takes one recipe and was given {' '.join(words)}; see compare")
    asks_help = any(flag in ("-h", "--help") for flag in flags)
    if sum(map(bool, (words, resumed, config_file))) != 1 and not asks_help:
        raise ConfigError(
            f"train needs a recipe ({', '.join(RECIPES)}), or --config FILE, or --resume RUN"
        )
    if words:
        default, command = recipe(words[0]), f"train {words[0]}"
    elif config_file:
        default, command = read_config(config_file), f"train --config {config_file}"
    else:
        default, command = Config(), "train"
    arguments = parse(Train, Train(settings=default), flags, command)
    if resumed and arguments.settings != default:
        raise ConfigError("--resume continues a run as it was started; it takes no other setting")
    return arguments, Path(resumed) if resumed else None


def take_option(flags: list[str], name: str) -> str | None:
    """Remove ``name VALUE`` (or ``name=VALUE``) from ``flags``; the value, if it was there."""
    for place, flag in enumerate(flags):
        if flag.startswith(f"{name}="):
            del flags[place]
            return flag.split("=", 1)[1]
        if flag == name:
            if place + 1 == len(flags):
                raise ConfigError(f"{name} needs a value")
            value = flags[place + 1]
            del flags[place : place + 2]
            return value
    return None


def show(summary: dict[str, Any], *, as_json: bool, table: Any) -> None:
    """The result, for a program or for a person."""
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        table(summary)
