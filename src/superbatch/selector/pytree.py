"""Batches of any structure: how many rows they have, and some of the rows in the same structure.

Mappings, dataclasses, named tuples, tuples and lists are looked into. A column is a tensor or array
with axes, or a tuple or list of anything else: texts, numbers, mappings (one a row). What is
neither, a single number for example, belongs to the whole batch and is left as it is.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from superbatch.errors import DataError


def rows(batch: Any) -> int:
    """How many rows the columns of ``batch`` have.

    ``DataError`` where they disagree, and where there are no columns or no rows.
    """
    found = columns(batch)
    first = next(found, None)
    if first is None:
        raise DataError(
            f"a super-batch of type {type(batch).__name__} has nothing to choose from: no tensor "
            "with a leading axis and no list; give the tensors as a tuple, list, dict or dataclass"
        )
    count = len(first[1])
    for path, column in found:
        if len(column) != count:
            raise DataError(
                f"{first[0]} has {count} rows and {path} has {len(column)}; every column of a "
                "super-batch must have one row for each example"
            )
    if count == 0:
        raise DataError(f"{first[0]} has no rows; there is nothing to choose from")
    return count


def take_rows(batch: Any, index: Int[Tensor, " m"]) -> Any:
    """The rows ``index`` of every column of ``batch``, in that order, in the same structure."""
    places = index.tolist()

    def picked(column: Any) -> Any:
        if isinstance(column, Tensor):
            return column.index_select(0, index.to(column.device))
        if isinstance(column, np.ndarray):
            return column[places]
        return type(column)(column[place] for place in places)

    return _mapped(batch, picked)


def split_rows(batch: Any, part_size: int) -> list[Any]:
    """``batch`` in parts of at most ``part_size`` rows, in order; whole if that is 0."""
    count = rows(batch)
    if not 0 < part_size < count:
        return [batch]

    def part(start: int) -> Any:
        return _mapped(batch, lambda column: column[start : start + part_size])

    return [part(start) for start in range(0, count, part_size)]


def columns(batch: Any, path: str = "batch") -> Iterator[tuple[str, Any]]:
    """Each column of ``batch`` and where it stands, such as ``batch['label']``."""
    if _is_column(batch):
        yield path, batch
        return
    for name, part in _parts(batch):
        yield from columns(part, path + name)


def device_of(batch: Any) -> torch.device | None:
    """Where the first tensor of ``batch`` is; none where it has no tensor."""
    for _, column in columns(batch):
        if isinstance(column, Tensor):
            return column.device
    return None


def _is_column(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    if _is_named_tuple(value) or not _is_sequence(value):
        return False
    return bool(value) and not any(_holds_columns(each) for each in value)


def _holds_columns(value: Any) -> bool:
    """Whether ``value``, a member of a sequence, makes that sequence more than a column."""
    return isinstance(value, Tensor | np.ndarray | tuple | list) or _is_dataclass(value)


def _parts(batch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        yield from ((f"[{name!r}]", part) for name, part in batch.items())
    elif _is_dataclass(batch):
        yield from (
            (f".{field.name}", getattr(batch, field.name)) for field in dataclasses.fields(batch)
        )
    elif _is_named_tuple(batch):
        yield from ((f".{name}", getattr(batch, name)) for name in batch._fields)
    elif _is_sequence(batch):
        yield from ((f"[{place}]", part) for place, part in enumerate(batch))


def _mapped(batch: Any, function: Callable[[Any], Any]) -> Any:
    """``batch`` with ``function`` of every column in the column's place."""
    if _is_column(batch):
        return function(batch)
    if isinstance(batch, Mapping):
        new = {name: _mapped(part, function) for name, part in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return new
        like = copy.copy(batch)  # its class, and what it holds besides
        like.update(new)
        return like
    if _is_dataclass(batch):
        other = copy.copy(batch)  # without running its __init__ again, which may do anything
        for field in dataclasses.fields(batch):
            new_part = _mapped(getattr(batch, field.name), function)
            object.__setattr__(other, field.name, new_part)
        return other
    if _is_named_tuple(batch):
        return batch._make(_mapped(part, function) for part in batch)
    if _is_sequence(batch):
        return type(batch)(_mapped(part, function) for part in batch)
    return batch


def _is_sequence(value: Any) -> bool:
    """Tuples and lists, but for shapes, which belong to the whole batch."""
    return isinstance(value, tuple | list) and not isinstance(value, torch.Size)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")
