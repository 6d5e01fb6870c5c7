"""``superbatch subset``: the best examples of a table, as a list of names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from superbatch.cli.output import say
from superbatch.cli.settings import JsonSwitch, Switch, leading_words, parse
from superbatch.config import Data
from superbatch.errors import ConfigError, DataError


if TYPE_CHECKING:
    import numpy as np

    from superbatch.tables.named import Named


class Subset(BaseModel):
    """superbatch subset --table TABLE (--fraction F | --threshold T) --out FILE [flags].

    FILE is .txt (one id a line), .parquet (with the values), or .npy (DataComp's subset file).
    """

    table: str = ""
    """A table of losses (or TABLE::COLUMN), or DataComp's metadata: a parquet file, or a folder of
    them."""
    column: str | None = None
    """What examples are compared by; none: the table's only column."""
    minus: str | None = None
    """A column that is subtracted, such as the losses of a reference."""
    fraction: float | None = None
    """Keep this share of the examples, the best."""
    threshold: float | None = None
    """Keep the examples that are at least as good as this."""
    keep: Literal["low", "high"] | None = None
    """Which values are good; none: low ones of a loss, high ones of a difference (learnability) and
    of any other column (a similarity)."""
    per_class: Switch = False
    """Keep the same fraction of each class; labels are those of --data.path."""
    within: str | None = None
    """Choose among these only: ids or uids in a .txt, .parquet or .npy file."""
    uids: str | None = None
    """A parquet file with columns id and uid, to write uids for a table of ids."""
    out: str = ""
    """The list to write."""
    data: Data = Data()
    json_: JsonSwitch = False
    """Print what was kept as JSON."""


def run(argv: Sequence[str]) -> int:
    """Choose, and write the list."""
    words, flags = leading_words(argv)
    arguments = parse(Subset, Subset(), flags, "subset")
    check(arguments, words)
    from superbatch.tables.named import write_names  # slow to import: only once flags are good

    found, values, keep = valued(arguments)
    kept = chosen(arguments, found, values, keep)
    if len(kept) == 0:
        raise DataError(none_kept(arguments, values))
    best = found.take(kept)
    if arguments.uids is not None:
        from superbatch.tables.named import with_uids

        best = with_uids(best, Path(arguments.uids))
    write_names(Path(arguments.out), best)
    said = {"out": arguments.out, "kept": len(kept), "of": len(found.names), "keep": keep}
    if arguments.json_:
        print(json.dumps(said, indent=2))
    else:
        share = f"{len(kept)} of {len(found.names)} examples, those with {keep} values"
        say(f"{share}, in {arguments.out}")
    return 0


def check(arguments: Subset, words: Sequence[str]) -> None:
    """Refuse, with a ``ConfigError``, flags that say too little or too much."""
    if words:
        raise ConfigError(f"subset takes flags only and was given {' '.join(words)}; see --table")
    if not arguments.table or not arguments.out:
        raise ConfigError("subset needs a table and a list to write: --table TABLE --out FILE")
    if (arguments.fraction is None) == (arguments.threshold is None):
        raise ConfigError(
            f"subset needs either --fraction or --threshold; they are {arguments.fraction} and "
            f"{arguments.threshold}"
        )
    if arguments.minus is not None and arguments.minus == arguments.column:
        raise ConfigError(f"--column and --minus are both {arguments.minus}")
    if arguments.per_class and arguments.fraction is None:
        raise ConfigError("--per-class keeps a fraction of each class; give --fraction")


def valued(arguments: Subset) -> tuple["Named", "np.ndarray", Literal["low", "high"]]:
    """The examples to choose from, what they are compared by, and which values are good."""
    from superbatch.tables.file import place_of
    from superbatch.tables.named import read_named

    path, column = place_of(arguments.table)
    columns = [arguments.column or column] + ([arguments.minus] if arguments.minus else [])
    found = read_named(path, columns)
    values, *subtracted = found.values.values()
    is_loss = next(iter(found.values)).startswith("loss") and not subtracted
    keep = arguments.keep or ("low" if is_loss else "high")
    values = values - subtracted[0] if subtracted else values
    if arguments.within is not None:
        found, values = among(arguments.within, found, values)
    return found, values, keep


def chosen(
    arguments: Subset, found: "Named", values: "np.ndarray", keep: Literal["low", "high"]
) -> "np.ndarray":
    """The places of the best."""
    from superbatch.tables import subset

    if arguments.threshold is not None:
        return subset.within(values, threshold=arguments.threshold, keep=keep)
    assert arguments.fraction is not None
    if not arguments.per_class:
        return subset.best(values, fraction=arguments.fraction, keep=keep)
    classes = labels(arguments, found)
    return subset.best_of_each_class(values, classes, fraction=arguments.fraction, keep=keep)


def none_kept(arguments: Subset, values: "np.ndarray") -> str:
    """Why the list would be empty."""
    asked = ("--threshold", arguments.threshold)
    if arguments.threshold is None:
        asked = ("--fraction", arguments.fraction)
    there = f"; their values go from {values.min():.6g} to {values.max():.6g}" * bool(len(values))
    return f"{asked[0]} {asked[1]:g} keeps not one of {len(values)} examples{there}"


def among(path: str, found: "Named", values: "np.ndarray") -> tuple["Named", "np.ndarray"]:
    """The examples that the list at ``path`` names too, and their values."""
    import numpy as np

    from superbatch.tables.datacomp import among as uids_among
    from superbatch.tables.named import read_names

    names = read_names(Path(path))
    if names.dtype != found.names.dtype:
        raise DataError(
            f"{path} names examples by {names.dtype} and the table by {found.names.dtype}"
        )
    inside = uids_among(found.names, names) if found.by_uid else np.isin(found.names, names)
    return found.take(np.flatnonzero(inside)), values[inside]


def labels(arguments: Subset, found: "Named") -> Any:
    """The label of each example of ``found``, by id."""
    import numpy as np

    from superbatch.sources import open_examples

    data = arguments.data
    if found.by_uid:
        raise ConfigError("--per-class needs a table with ids, whose labels --data.path knows")
    examples: Any
    if data.vocabulary is None:
        examples = open_examples(
            data.path, label=data.label, image=data.image, image_size=data.image_size
        )
    else:
        from superbatch.problems.text import open_sets

        examples, _ = open_sets(data.model_copy(update={"eval_path": None}), None)
    order = np.argsort(examples.ids, kind="stable")
    ids = examples.ids[order]
    places = np.minimum(np.searchsorted(ids, found.names), len(ids) - 1)
    lacking = int((ids[places] != found.names).sum())
    if lacking:
        raise DataError(
            f"{data.path} lacks {lacking} of the {len(found.names)} examples of "
            f"{arguments.table}; give --data.path as it was when it was made"
        )
    return examples.labels[order][places]
