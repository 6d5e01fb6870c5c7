"""``superbatch train``: one run."""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from superbatch import launch
from superbatch.checks import check
from superbatch.cli.settings import JsonSwitch, Settings, leading_words, parse, read_config
from superbatch.config import Config, config_of_run
from superbatch.errors import ConfigError
from superbatch.places import check_launcher, without_effect
from superbatch.recipes import RECIPES, recipe, resolved


if TYPE_CHECKING:
    from superbatch.group import Work


class Train(BaseModel):
    """superbatch train RECIPE [flags] | --config FILE [flags] | --resume RUN."""

    settings: Settings = Config()
    json_: JsonSwitch = False
    """Print the summary as JSON instead of a table."""


def run(argv: Sequence[str]) -> int:
    """Train with the recipe, configuration or run that ``argv`` names."""
    arguments, resumed = arguments_of(argv)
    settings = arguments.settings
    on_ray = settings.ranks.launcher == "ray"
    if on_ray:
        refuse_launched()
    if resumed is None:
        check(resolved(settings))
        warn(settings)
    elif on_ray:
        check_launcher(settings)
    train = by_ray if on_ray else here
    summary = train(settings, resumed, quiet=arguments.json_ or not launch.first())
    from superbatch.cli.progress import show_summary

    show(summary, as_json=arguments.json_, table=show_summary)
    return 0


def warn(settings: Config) -> None:
    """Say, on the error stream, which settings have no effect."""
    if launch.first():
        for said in without_effect(settings):
            print(f"superbatch: {said}", file=sys.stderr)


def here(settings: Config, resumed: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Train in this process, which may be a rank that torchrun has started."""
    from superbatch import training  # slow to import: only once the flags are known to be good
    from superbatch.cli.progress import watched

    with launch.joined(settings.ranks.timeout_seconds), watched(quiet=quiet) as around:
        if resumed is None:
            return training.start(settings, around)
        return training.resume(resumed, around)


def by_ray(settings: Config, resumed: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Train on ranks that Ray Train starts, once it is clear that there is a run to make."""
    from superbatch import training
    from superbatch.cli.progress import watched
    from superbatch.group import on_ray
    from superbatch.run import RunFolder

    if settings.device == "auto" and not settings.ranks.gpus:
        settings = settings.changed(device="cpu")  # a GPU that they do not take up is not theirs
    work: Work = partial(training.start_or_resume, settings)
    if resumed is None:
        RunFolder(training.run_folder(settings)).refuse_taken()
    elif (summary := RunFolder.open(resumed).summary()) is not None:
        return dict(summary)
    else:
        work = partial(training.resume, resumed)
    with watched(quiet=quiet) as around:
        return on_ray(work, settings, around)


def refuse_launched() -> None:
    """Raise ``ConfigError`` where torchrun has started what is to start ranks."""
    if launch.started():
        raise ConfigError(
            "--ranks.launcher ray starts ranks itself and torchrun has started "
            f"{os.environ['WORLD_SIZE']}; leave torchrun out, or give --ranks.launcher torchrun"
        )


def arguments_of(argv: Sequence[str]) -> tuple[Train, Path | None]:
    """The settings, and the run to resume if one is named."""
    words, flags = leading_words(argv)
    resumed = take_option(flags, "--resume")
    config_file = take_option(flags, "--config")
    if len(words) > 1:
        raise ConfigError(f"train takes one recipe and was given {' '.join(words)}; see compare")
    asks_help = any(flag in ("-h", "--help") for flag in flags)
    named = {"recipe": " ".join(words), "--config": config_file, "--resume": resumed}
    given = [f"{what} {name}" for what, name in named.items() if name]
    if len(given) > 1:
        raise ConfigError(
            f"train takes a recipe, or --config FILE, or --resume RUN, and was given "
            f"{' and '.join(given)}; give one of them"
        )
    if not given and not asks_help:
        raise ConfigError(
            f"train needs a recipe ({', '.join(RECIPES)}), or --config FILE, or --resume RUN"
        )
    if words:
        default, command = recipe(words[0]), f"train {words[0]}"
    elif config_file:
        default, command = read_config(config_file), f"train --config {config_file}"
    else:
        default, command = settings_of(resumed), "train"
    arguments = parse(Train, Train(settings=default), flags, command)
    if resumed and elsewhere(arguments.settings, default) != arguments.settings:
        raise ConfigError(
            "--resume continues a run as it was started; the only settings that it takes say where "
            f"its ranks are (--ranks.{', --ranks.'.join(WHERE)}, --ray.address)"
        )
    return arguments, Path(resumed) if resumed else None


WHERE = ("launcher", "count", "cpus", "gpus", "resource", "restarts")
"""The settings of ranks that change nothing of what a run comes to."""


def settings_of(resumed: str | None) -> Config:
    """Those that the run was started with, where there is one."""
    if not resumed or not Path(resumed, "config.json").is_file():
        return Config()
    from superbatch.run import RunFolder

    folder = RunFolder(Path(resumed))
    return config_of_run(folder.config(), folder.path)


def elsewhere(settings: Config, begun: Config) -> Config:
    """The run that was ``begun``, on the ranks of ``settings``."""
    return begun.changed(
        ranks={name: getattr(settings.ranks, name) for name in WHERE},
        ray={"address": settings.ray.address},
    )


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
