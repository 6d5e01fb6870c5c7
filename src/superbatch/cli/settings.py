"""Flags to configuration: a recipe or a file gives the defaults, flags change them."""

import io
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from superbatch import launch
from superbatch.config import Config, Section, wrong_values
from superbatch.errors import ConfigError
from superbatch.recipes import recipe


T = TypeVar("T", bound=BaseModel)

Settings = Annotated[Config, tyro.conf.arg(name="")]
"""A configuration whose fields are flags without a prefix."""

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is given or not."""

JsonSwitch = Annotated[Switch, tyro.conf.arg(name="json")]
"""``--json``, for a field that cannot be named like the module."""


Offered = Mapping[type[Section], Collection[str]]
"""The fields that are flags, of the sections that have fields which are none."""

ALL_BUT_RECIPE: Offered = {Config: tuple(name for name in Config.model_fields if name != "recipe")}
"""A recipe is named by the word after the command: as a flag it would only be a label."""


def parse(
    kind: type[T],
    default: T,
    argv: Sequence[str],
    command: str,
    *,
    offered: Offered = ALL_BUT_RECIPE,
) -> T:
    """``default`` with what ``argv`` changes. tyro ends the program on a flag it does not know.

    Raises ``ConfigError`` naming each flag whose value is out of range.
    """
    shown = io.StringIO()
    try:
        with redirect_stderr(shown), offering(offered):
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


def offering(offered: Offered) -> ConstructorRegistry:
    """Within: tyro makes no flags of the fields of ``offered``'s sections that it does not name."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in offered:
            return None
        fields = tuple(
            StructFieldSpec(
                name,
                type=field.annotation if name in offered[info.type] else hidden(field.annotation),
                default=getattr(info.default, name),
                helptext=field.description,
            )
            for name, field in info.type.model_fields.items()
        )
        return StructConstructorSpec(info.type, fields)

    return registry


def hidden(kind: Any) -> Any:
    """A type of which tyro makes no flag and says nothing."""
    return tyro.conf.Fixed[tyro.conf.Suppress[kind]]  # type: ignore[misc]


def flag_of(title: str, path: Sequence[str]) -> str:
    """The flag of a field of ``Config`` or of one of its sections."""
    sections = {field.annotation: name for name, field in Config.model_fields.items()}
    prefix = [name for kind, name in sections.items() if getattr(kind, "__name__", "") == title]
    return "--" + ".".join([*prefix, *path]).replace("_", "-")


def read_config(path: str) -> Config:
    """The configuration in a JSON or YAML file: what it says, over the recipe that it names.

    Raises ``ConfigError`` naming each bad field.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(
            f"--config {path} is a folder and a file is wanted; a run's is {file / 'config.json'}"
        )
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
    return config_of(values, f"--config {path}")


def config_of(values: Any, place: str) -> Config:
    """``values`` over the settings of the recipe that they name; ``place`` is where they are.

    Raises ``ConfigError`` naming each bad field.
    """
    try:
        if isinstance(values, dict) and isinstance(name := values.get("recipe"), str):
            values = over(recipe(name).model_dump(), values)
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{place}: {wrong_values(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def over(below: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``below`` with the fields that ``values`` name, also of sections, replaced."""
    both = dict(below)
    for name, value in values.items():
        under = below.get(name)
        if isinstance(under, dict) and isinstance(value, dict):
            value = over(under, value)
        both[name] = value
    return both


def leading_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, and the rest."""
    words = list(argv)
    for place, word in enumerate(words):
        if word.startswith("-"):
            return words[:place], words[place:]
    return words, []
