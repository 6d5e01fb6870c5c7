"""``superbatch order``: a foundation curriculum, distilled from what runs chose."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import BaseModel, Field

from superbatch.cli.output import say
from superbatch.cli.settings import JsonSwitch, Switch, parse
from superbatch.errors import ConfigError


if TYPE_CHECKING:
    from superbatch import orders


class Order(BaseModel):
    """superbatch order --run RUN [--run RUN ...] --out ORDER [flags]. Then learn in that order,
    with nothing to score: superbatch train uniform --data.order ORDER.
    """

    run: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A run folder; for a policy order several, such as one recipe with several seeds."""
    out: Path | None = None
    """The file to write."""
    kind: Literal["replay", "policy"] = "replay"
    """Exactly what one run learned from; or each example as often as it was chosen, at its mean
    time, for any length."""
    examples: int | None = Field(None, ge=1)
    """Of a policy order: how many examples it has; none: as many as the run chose."""
    steps: int | None = Field(None, ge=1)
    """The same in steps of --batch examples."""
    batch: int | None = Field(None, ge=1)
    """Examples of a step."""
    allow_unfinished: Switch = False
    """Take what a run that has not ended chose so far."""
    json_: JsonSwitch = False
    """Print what was written as JSON."""


def run(argv: Sequence[str]) -> int:
    """Distil the runs that ``argv`` names into an order."""
    arguments = parse(Order, Order(), argv, "order --run RUN --out ORDER")
    out = checked(arguments)
    from superbatch.orders import policy_order, replay_order, write_order  # slow to import

    if arguments.kind == "replay":
        order = replay_order(arguments.run[0], allow_unfinished=arguments.allow_unfinished)
    else:
        order = policy_order(
            arguments.run,
            examples=wanted_examples(arguments),
            allow_unfinished=arguments.allow_unfinished,
        )
    write_order(order, out)
    numbers = described(order, out)
    if arguments.json_:
        print(json.dumps(numbers, indent=2))
    else:
        show(numbers)
    return 0


def checked(arguments: Order) -> Path:
    """Where to write. Raises ``ConfigError`` for flags that cannot work together."""
    if not arguments.run or arguments.out is None:
        missing = "--out ORDER" if arguments.run else "--run RUN"
        raise ConfigError(
            f"order needs {missing}: superbatch order --run runs/classact-seed0 --out order.parquet"
        )
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out} exists; give another name, or remove it")
    length = {"examples": arguments.examples, "steps": arguments.steps, "batch": arguments.batch}
    given = [f"--{name} {value}" for name, value in length.items() if value is not None]
    if arguments.kind == "replay" and (len(arguments.run) > 1 or given):
        what = given[0] if given else f"{len(arguments.run)} runs"
        raise ConfigError(
            f"a replay is what one run did, whole, and {what} was given; add --kind policy for "
            "the mean of several runs, or for another length"
        )
    if given and [name for name in length if length[name] is not None] not in (
        ["examples"],
        ["steps", "batch"],
    ):
        raise ConfigError(
            f"the length is --examples, or --steps and --batch; given were {' '.join(given)}"
        )
    return arguments.out


def wanted_examples(arguments: Order) -> int | None:
    """The length that was asked for."""
    if arguments.steps is not None and arguments.batch is not None:
        return arguments.steps * arguments.batch
    return arguments.examples


def described(order: "orders.Order", path: Path) -> dict[str, Any]:
    """The order in numbers."""
    import numpy as np

    times = np.unique(order.ids, return_counts=True)[1]
    size = path.stat().st_size
    return {
        "order": str(path),
        "kind": order.kind,
        "examples": len(order),
        "distinct": len(times),
        "most_often": int(times.max()),
        "fingerprint": order.fingerprint,
        "runs": [
            {name: run[name] for name in ("name", "recipe", "seed", "steps", "examples")}
            for run in order.about["runs"]
        ],
        "bytes": size,
        "bytes_per_example": size / len(order),
    }


def show(numbers: dict[str, Any]) -> None:
    """The same as two sentences, and the command that uses it."""
    names = ", ".join(run["name"] for run in numbers["runs"])
    for line in (
        f"{numbers['kind']} order of {numbers['examples']} examples from {names}: "
        f"{numbers['distinct']} distinct, none more than {numbers['most_often']} times",
        f"wrote {numbers['order']} ({numbers['bytes_per_example']:.1f} bytes an example); "
        f"learn from it with superbatch train uniform --data.order {numbers['order']}",
    ):
        say(line)
