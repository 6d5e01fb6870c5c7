"""Flags to configuration: a recipe or a file gives the defaults, flags change them."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError

from superbatch import launch
from superbatch.config import Config
from superbatch.errors import ConfigError


T = TypeVar("T", bound=BaseModel)

Settings = Annotated[Config, tyro.conf.arg(name="")]
"""A configuration whose fields are flags without a prefix."""

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is given or not."""

JsonSwitch = Annotated[Switch, tyro.conf.arg(name="json")]
"""``--json``, for a field that cannot be named like the module."""


def parse(kind: type[T], default: T, argv: Sequence[str], command: str) -> T:
    """``default`` with what ``argv`` changes. tyro ends the program on a flag it does not know.

    Raises ``ConfigError`` naming each flag whose value is out of range.
    """
    shown = io.StringIO()
    try:
        with redirect_stderr(shown):
            return tyro.cli(
                kind,
                default=default,
                args=list(argv),
                prog=f"superbatch {command}",
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ValidationError as error:
        raise ConfigError(wrong_values(error, flag_of)) from error
    except SystemExit as leaving:
        # tyro shows what pydantic says of a section as it is, classes and links to its manual too.
        refused = leaving.__context__
        while refused is not None and not isinstance(refused, ValidationError):
            refused = refused.__context__
        if refused is not None:
            raise ConfigError(wrong_values(refused, flag_of)) from refused
        if launch.speaks():
            print(shown.getvalue(), file=sys.stderr, end="")
        raise


def wrong_values(error: ValidationError, name: Callable[[str, Sequence[str]], str]) -> str:
    """Each bad value as a clause; ``name`` names a field by its model's title and path there."""
    return "; ".join(
        f"{name(error.title, [str(part) for part in one['loc']])}: {one['msg']} "
        f"(it is {one['input']!r})"
        for one in error.errors()
    )


def flag_of(title: str, path: Sequence[str]) -> str:
    """The flag of a field of ``Config`` or of one of its sections."""
    sections = {field.annotation: name for name, field in Config.model_fields.items()}
    prefix = [name for kind, name in sections.items() if getattr(kind, "__name__", "") == title]
    return "--" + ".".join([*prefix, *path]).replace("_", "-")


def read_config(path: str) -> Config:
    """The configuration in a JSON or YAML file. Raises ``ConfigError`` naming each bad field."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--config {path}: there is no such file")
    try:
        text = file.read_text(encoding="utf-8")
        values: Any = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--config {path} is not valid {file.suffix or 'YAML'}: {reason}"
        ) from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        wrong = wrong_values(error, lambda title, place: ".".join(place) or "the whole")
        raise ConfigError(f"--config {path}: {wrong}") from error


def leading_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, and the rest."""
    words = list(argv)
    for place, word in enumerate(words):
        if word.startswith("-"):
            return words[:place], words[place:]
    return words, []
