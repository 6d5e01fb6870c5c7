"""Flags to configuration: a recipe or a file gives the defaults, flags change them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError

from superbatch.config import Config
from superbatch.errors import ConfigError


T = TypeVar("T", bound=BaseModel)

Settings = Annotated[Config, tyro.conf.arg(name="")]
"""A configuration whose fields are flags without a prefix."""

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is given or not."""


def parse(kind: type[T], default: T, argv: Sequence[str], command: str) -> T:
    """``default`` with what ``argv`` changes. tyro ends the program on a flag it does not know."""
    return tyro.cli(
        kind,
        default=default,
        args=list(argv),
        prog=f"superbatch {command}",
        config=(tyro.conf.AvoidSubcommands,),
    )


def read_config(path: str) -> Config:
    """The configuration in a JSON or YAML file. Raises ``ConfigError`` naming each bad field."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--config {path}: there is no such file")
    try:
        text = file.read_text(encoding="utf-8")
        values: Any = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--config {path} is not valid {file.suffix or 'YAML'}: {error}"
        ) from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (it is {e['input']!r})"
            for e in error.errors()
        )
        raise ConfigError(f"--config {path}: {wrong}") from error


def leading_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, and the rest."""
    words = list(argv)
    for place, word in enumerate(words):
        if word.startswith("-"):
            return words[:place], words[place:]
    return words, []
