"""Foundation curricula: what a selecting run chose, kept as an order to learn in without scoring.

An order is one parquet file: at each position the id of the example to learn from. A *replay* order
is what one run chose, draw by draw. A *policy* order keeps of one or more runs only how often and
when each example was chosen, and so fits any number of examples. The step's batch is the next ``b``
positions, whatever ``b`` is; but a replay in batches of the run's own size has the run's own steps
(`batch_starts`), of which broken images or duplicates may have left some short.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int32, Int64

import superbatch
from superbatch.chosen import Record, read_chosen
from superbatch.curriculum import policy
from superbatch.errors import ConfigError, DataError, RunError
from superbatch.integers import read_about, read_integers, unsaid, write_integers
from superbatch.run import RunFolder
from superbatch.sources.stream import Readable
from superbatch.tables.fingerprint import fingerprint


Kind = Literal["replay", "policy"]

SPLIT_SETTINGS = ("seed", "evaluation_fraction", "holdout_fraction", "part")
"""The settings of ``data`` that decide which rows are trained on."""


@dataclass(frozen=True, eq=False)
class Order:
    """Which example stands at each position, and where that comes from.

    ``draws`` and ``steps`` are those of the run, in replay orders only. ``fingerprint`` is that of
    all examples of the data (`superbatch.tables.fingerprint`). ``about`` is the
    provenance, as JSON values: ``"runs"`` (each with name, recipe, seed, steps, examples and whole
    configuration) and ``"superbatch"``, the version that made it.
    """

    kind: Kind
    ids: Int64[np.ndarray, " n"]
    draws: Int64[np.ndarray, " n"] | None
    steps: Int32[np.ndarray, " n"] | None
    fingerprint: str
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)


def replay_order(run: Path, *, allow_unfinished: bool = False) -> Order:
    """Exactly what the run in ``run`` learned from: the same examples, views and order.

    Raises ``RunError`` if there is no such run, no record, or (unless ``allow_unfinished``) no end,
    and for a run that learned with importance weights, which an order does not keep.
    """
    record, about = _read_run(run, allow_unfinished)
    return Order(
        kind="replay",
        ids=record.ids,
        draws=record.draws,
        steps=record.steps,
        fingerprint=record.fingerprint,
        about=_provenance([about]),
    )


def policy_order(
    runs: Sequence[Path], *, examples: int | None = None, allow_unfinished: bool = False
) -> Order:
    """``examples`` positions with each example at its mean chosen time, as often as it was chosen.

    None: as many as each run chose. How times and counts are made is said at `curriculum.policy`.
    Raises ``RunError`` as `replay_order` does, ``DataError`` if the runs are of different data,
    ``ConfigError`` if ``examples`` is not positive, or left out though the runs differ in length.
    """
    if not runs:
        raise ConfigError("an order is distilled from runs and none was given; name at least one")
    read = [_read_run(run, allow_unfinished) for run in runs]
    records = [record for record, _ in read]
    for run, record in zip(runs, records, strict=True):
        if record.fingerprint != records[0].fingerprint:
            raise DataError(
                f"runs of different data make no common order: {runs[0]} learned from data "
                f"{records[0].fingerprint} and {run} from {record.fingerprint}; "
                "distil them apart"
            )
    lengths = sorted({len(record) for record in records})
    if examples is None and len(lengths) > 1:
        raise ConfigError(
            f"the runs chose {lengths[0]} to {lengths[-1]} examples; say how many the order is to "
            "have (--examples, or --steps and --batch)"
        )
    wanted = lengths[0] if examples is None else examples
    if wanted < 1:
        raise ConfigError(f"an order needs at least 1 example; {wanted} were asked for")
    return Order(
        kind="policy",
        ids=policy([record.ids for record in records], wanted),
        draws=None,
        steps=None,
        fingerprint=records[0].fingerprint,
        about=_provenance([about for _, about in read]),
    )


def write_order(order: Order, path: Path) -> None:
    """``order`` as the file ``path``, atomically. Raises ``RunError`` where the disk refuses."""
    columns: dict[str, Any] = {"id": order.ids}
    if order.draws is not None and order.steps is not None:
        columns |= {"draw": order.draws, "step": order.steps}
    about = {
        "kind": order.kind,
        "examples": len(order),
        "fingerprint": order.fingerprint,
        **order.about,
    }
    write_integers(path, columns, kind="order", about=about)


def read_order(path: Path) -> Order:
    """The order in ``path``. Raises ``DataError`` if it is none, of unknown kind, or broken."""
    said = ("kind", "examples", "fingerprint", "runs", "superbatch")
    about = read_about(path, kind="order", fields=said)
    if not _are_runs(about["runs"]):
        raise DataError(unsaid(path, "runs"))
    kind: Kind = about["kind"]
    if kind not in get_args(Kind):
        raise DataError(
            f"{path} is an order of kind {kind!r} and this version knows "
            f"{' and '.join(get_args(Kind))}; make it again"
        )
    names = ("id", "draw", "step") if kind == "replay" else ("id",)
    columns = read_integers(path, names, kind="order")
    if len(columns["id"]) != about["examples"]:
        raise DataError(
            f"{path} has {len(columns['id'])} rows and says that it has {about['examples']}; "
            "it was changed since superbatch wrote it, make it again"
        )
    return Order(
        kind=kind,
        ids=columns["id"],
        draws=columns.get("draw"),
        steps=columns.get("step"),
        fingerprint=about["fingerprint"],
        about={name: about[name] for name in ("runs", "superbatch")},
    )


def _are_runs(runs: object) -> bool:
    """Whether ``runs`` is at least one run with its configuration, as messages quote it."""
    return (
        isinstance(runs, list)
        and len(runs) > 0
        and all(isinstance(run, dict) and isinstance(run.get("config"), dict) for run in runs)
    )


def order_rows(
    order: Order, examples: Readable, trained: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " n"]:
    """The row of ``examples`` at each position of ``order``: it belongs to this data.

    ``trained`` are the rows that may be learned from. Raises ``DataError`` if the order is of other
    data, has ids that the data lacks, or ids that are kept from training here.
    """
    by_id = np.argsort(examples.ids, kind="stable")
    ascending = examples.ids[by_id]
    places = np.searchsorted(ascending, order.ids).clip(max=len(ascending) - 1)
    known = ascending[places] == order.ids
    lacking = "" if known.all() else f": {_some(order.ids[~known], order)} are not in it"
    here = fingerprint(examples)
    if order.fingerprint != here:
        raise DataError(
            f"the order is of other data: it was made on {order.fingerprint} and this is {here} "
            f"(a sum of hashes of ids with labels or captions){lacking}; train on the data of its "
            "run, or make an order from a run on this"
        )
    if lacking:
        raise DataError(f"the order does not fit the data{lacking}; make it again from its run")
    rows: Int64[np.ndarray, " n"] = by_id[places]
    may_learn = np.zeros(len(examples.ids), dtype=bool)
    may_learn[trained] = True
    if not may_learn[rows].all():
        raise DataError(
            f"{_some(order.ids[~may_learn[rows]], order)} are kept from training here, for "
            "evaluation or a reference; split the data as the order's run did"
            f"{_split_of(order)}"
        )
    return rows


def batch_starts(order: Order, batch_size: int) -> Int64[np.ndarray, " batches"] | None:
    """Where the steps of the run begin in its replay; None: each ``batch_size`` positions are one.

    They are taken over in batches of the run's own size, and only where one of them was short.
    """
    if order.steps is None:
        return None
    starts = np.flatnonzero(np.diff(order.steps, prepend=0))
    sizes = np.diff(starts, append=len(order))
    largest = int(sizes.max(initial=0))
    select = order.about["runs"][0]["config"].get("select", {})
    if not largest <= batch_size == select.get("sub_batch_size", largest):
        return None
    return starts if (sizes < batch_size).any() else None


def _some(ids: Int64[np.ndarray, " m"], order: Order) -> str:
    which = np.unique(ids)
    return (
        f"{len(which)} of its {len(np.unique(order.ids))} ids, such as "
        f"{', '.join(map(str, which[:3].tolist()))},"
    )


def _split_of(order: Order) -> str:
    data = order.about["runs"][0]["config"].get("data", {})
    flags = [
        f"--data.{name.replace('_', '-')} {data[name]}" for name in SPLIT_SETTINGS if name in data
    ]
    return f": {' '.join(flags)}" if flags else ""


def _read_run(path: Path, allow_unfinished: bool) -> tuple[Record, dict[str, Any]]:
    """What the run in ``path`` chose, and what it was."""
    folder = RunFolder.open(path)
    config = folder.config()
    _refuse_weighted(path, config)
    record = read_chosen(folder)
    last = int(record.steps[-1])
    if folder.summary() is None and not allow_unfinished:
        raise RunError(
            f"the run in {path} is not finished: it has chosen for {last} of {config['steps']} "
            f"steps; finish it with superbatch train --resume {path}, or take what there is "
            "with --allow-unfinished"
        )
    about = {
        "name": path.resolve().name,
        "recipe": config["recipe"],
        "seed": config["seed"],
        "steps": last,
        "examples": len(record),
        "config": config,
    }
    return record, about


def _refuse_weighted(path: Path, config: Mapping[str, Any]) -> None:
    exponent = config.get("select", {}).get("importance_exponent", 0.0)
    if exponent:
        raise RunError(
            f"the run in {path} weighted what it chose (exponent {exponent:g}) and an order keeps "
            "no weights, so its learner would learn something else; run it again with "
            "--select.importance-exponent 0 for an order, or learn with the recipe itself"
        )


def _provenance(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"runs": runs, "superbatch": superbatch.__version__}
