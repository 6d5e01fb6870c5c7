"""``superbatch table``: look at tables of losses, verify them, put them together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from superbatch.cli.output import say
from superbatch.cli.settings import JsonSwitch, leading_words, parse
from superbatch.config import Data
from superbatch.errors import ConfigError


VERBS = {
    "show": "superbatch table show TABLE: what it says of itself",
    "verify": "superbatch table verify TABLE --data.path DATA [--model CKPT]: is it whole, and of "
    "this data? Computes some of its losses again",
    "merge": "superbatch table merge TABLE TABLE... --out TABLE: the rows of all, of different "
    "examples",
    "join": "superbatch table join NAME=TABLE NAME=TABLE... --out TABLE: the columns of all, of "
    "the same examples, as loss/NAME",
}


class Show(BaseModel):
    """superbatch table show TABLE [flags]: what it says of itself."""

    json_: JsonSwitch = False
    """Print it as JSON."""


class Put(BaseModel):
    """superbatch table merge TABLE TABLE... --out TABLE, or join NAME=TABLE... --out TABLE."""

    out: str = ""
    """The table to write."""
    json_: JsonSwitch = False
    """Print what was written as JSON."""


class Verify(BaseModel):
    """superbatch table verify TABLE --data.path DATA [flags].

    Reads all of TABLE, checks that it is of DATA, and computes the losses of a sample again.
    """

    model: str | None = None
    """The checkpoint; none: where the table says it was, if it is still there."""
    column: str | None = None
    """Which column; none: all of them."""
    sample: int = Field(1024, ge=1)
    """How many losses are computed again."""
    tolerance: float | None = Field(None, gt=0)
    """Of |table - loss| / (1 + |loss|); none: 0.001, or 0.05 of bf16 towers."""
    batch_size: int = Field(256, ge=1)
    """Examples in one forward pass."""
    seed: int = 0
    """Decides the sample."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; auto: a GPU where there is one."""
    data: Data = Data()
    json_: JsonSwitch = False
    """Print what was found as JSON."""


def run(argv: Sequence[str]) -> int:
    """Do what the first word of ``argv`` says."""
    verb, rest = (argv[0], argv[1:]) if argv else ("", [])
    if verb in ("-h", "--help"):
        print("\n".join(VERBS.values()))
        return 0
    if verb not in VERBS:
        raise ConfigError(f"table needs one of {', '.join(VERBS)}; it was given {verb or 'none'}")
    words, flags = leading_words(rest)
    command = ["superbatch", "table", *argv]
    if verb == "show":
        arguments = parse(Show, Show(), flags, "table show TABLE")
        show(one_table(verb, words), as_json=arguments.json_)
    elif verb == "verify":
        verify(parse(Verify, Verify(), flags, "table verify TABLE"), words)
    else:
        put = parse(Put, Put(), flags, f"table {verb} TABLE TABLE...")
        tell(put_together(verb, words, put.out, command), as_json=put.json_)
    return 0


def one_table(verb: str, words: Sequence[str]) -> str:
    """The only word. Raises ``ConfigError`` if there are more, or none."""
    if len(words) != 1:
        raise ConfigError(f"table {verb} needs one table and was given {len(words)}")
    return words[0]


def show(path: str, *, as_json: bool) -> None:
    """Print the provenance of ``path``."""
    from superbatch.tables.file import TableFile

    file = TableFile(path)
    said: dict[str, Any] = {"table": path, "rows": len(file)}
    said |= file.provenance.model_dump(mode="json")
    if as_json:
        print(json.dumps(said, indent=2))
        return
    for name, value in said.items():
        if name == "columns":
            for column, scorer in value.items():
                facts = ", ".join(f"{fact} {given}" for fact, given in scorer.items())
                say(f"{column}: {facts}")
        else:
            text = " ".join(value) if isinstance(value, list) else value
            say(f"{name}: {text}")


def verify(arguments: Verify, words: Sequence[str]) -> None:
    """Verify the only table in ``words`` and print what was found."""
    path = one_table("verify", words)
    from superbatch.cli.verifying import verified  # slow to import

    found = verified(arguments, Path(path))
    if arguments.json_:
        print(json.dumps(found, indent=2))
        return
    say(f"{found['rows']} rows, all read: in order, finite, undamaged")
    say(f"of this data; {found['missing']} of its examples have no row")
    for column, facts in found["columns"].items():
        say(f"{column}: {facts['said']}")


def put_together(
    verb: str, words: Sequence[str], out: str, command: Sequence[str]
) -> dict[str, Any]:
    """Merge or join the tables in ``words``; what was written."""
    from superbatch.tables.file import TableFile
    from superbatch.tables.merge import join_tables, merge_tables

    if len(words) < 2 or not out:
        raise ConfigError(f"table {verb} needs two tables or more, and --out TABLE")
    if Path(out).exists():
        raise ConfigError(f"{out} is there already; remove it, or give another --out")
    if verb == "merge":
        merge_tables([Path(word) for word in words], Path(out), command=command)
    else:
        named = dict(word.partition("=")[::2] for word in words)
        if len(named) < len(words) or not all(named.values()):
            raise ConfigError("table join needs a name for each table, each once: NAME=TABLE")
        tables = {name: Path(path) for name, path in named.items()}
        join_tables(tables, Path(out), command=command)
    file = TableFile(out)
    return {"table": out, "rows": len(file), "columns": list(file.columns)}


def tell(written: dict[str, Any], *, as_json: bool) -> None:
    """Print what was written."""
    if as_json:
        print(json.dumps(written, indent=2))
    else:
        columns = ", ".join(written["columns"])
        say(f"{written['rows']} rows in {written['table']}: {columns}")
