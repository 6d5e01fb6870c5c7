"""Reading: from a batch of any structure to the named fields that a task sees."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from superbatch.errors import DataError
from superbatch.selector.pytree import columns


Read = Callable[[Any], Mapping[str, Any]]
"""From a batch of the user's to fields by the names that the task knows."""

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("images", "pixel_values", "img", "input", "inputs", "x"),
    "label": ("labels", "target", "targets", "y"),
    "text": ("texts", "input_ids", "tokens", "caption", "captions"),
    "mask": ("attention_mask",),
    "id": ("ids",),
}
"""What others call the fields of our tasks."""


def usual_fields(batch: Any) -> dict[str, Any]:
    """The fields of ``batch`` under their own names, and under ours where they have usual ones.

    A pair is (inputs, labels), or (images, token ids) where the second has two axes of whole
    numbers. ``DataError`` for other tuples and lists: their order has no usual meaning.
    """
    fields = by_name(batch)
    if fields is None:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            found = [f"{path} of type {type(each).__name__}" for path, each in columns(batch)]
            raise DataError(
                f"a super-batch of {', '.join(found) or type(batch).__name__} does not say what is "
                "what; give Selector(read=...), such as "
                "lambda batch: {'image': batch[0], 'label': batch[1], 'id': batch[2]}"
            )
        inputs, second = batch
        is_text = isinstance(second, Tensor) and second.ndim == 2 and not second.is_floating_point()
        fields = by_name(inputs) or {"image": inputs}
        fields = {**fields, ("text" if is_text else "label"): second}
    for ours, theirs in USUAL_NAMES.items():
        for name in theirs:
            if name in fields:
                fields.setdefault(ours, fields[name])
    return {name: each for name, each in fields.items() if isinstance(each, Tensor) and each.ndim}


def ids_of(batch: Any, count: int, find: Callable[[Any], Any] | None) -> Int64[Tensor, " n"] | None:
    """The ids of the ``count`` rows of ``batch``, as ``find`` finds them, a ``DataError`` if not.

    Without ``find``, its field ``id`` or ``ids`` where that is of whole numbers; none elsewhere.
    """
    if find is None:
        fields = by_name(batch) or {}
        usual = whole_numbers(fields.get("id", fields.get("ids")))
        return usual if usual is not None and len(usual) == count else None
    given = find(batch)
    found = whole_numbers(given)
    if found is None or len(found) != count:
        told = type(given).__name__ if found is None else f"{len(found)} of them"
        raise DataError(
            f"Selector(ids=...) must find one whole number for each of {count} rows, always the "
            f"same for the same example; it found {told}"
        )
    return found


def whole_numbers(given: Any) -> Int64[Tensor, " n"] | None:
    """``given`` as a vector of whole numbers; none where it is anything else."""
    if given is None:
        return None
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return None
    if found.ndim != 1 or found.is_floating_point() or found.is_complex():
        return None
    return found.long()


def by_name(batch: Any) -> dict[str, Any] | None:
    """The fields of a mapping, dataclass or named tuple; none for anything else."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return {name: getattr(batch, name) for name in batch._fields}
    return None
