"""What is known of a data set before any image is read, checked once."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor, from_numpy

from superbatch.errors import DataError


Column = tuple[str, Int64[np.ndarray, " n"]]
"""A column of labels by its name."""


LARGEST = 2**63 - 1
"""Of ids and labels, which are int64."""
MOST_CLASSES = 10_000_000


@dataclass(frozen=True)
class Catalogue:
    """Ids and labels by row. Make one with `catalogue_of`, which refuses what cannot be right."""

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]
    truth: Int64[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[np.ndarray, " m"]) -> "Catalogue":
        """The same for ``rows`` only, in that order."""
        truth = None if self.truth is None else self.truth[rows]
        return Catalogue(self.ids[rows], self.labels[rows], self.class_names, truth)

    def fields(self, rows: Int64[np.ndarray, " m"]) -> dict[str, Tensor]:
        """``"id"``, ``"label"`` and, where it is known, ``"truth"`` of ``rows``, all Int64[m]."""
        chosen = self.take(rows)
        fields = {"id": from_numpy(chosen.ids), "label": from_numpy(chosen.labels)}
        return fields if chosen.truth is None else {**fields, "truth": from_numpy(chosen.truth)}

    def fingerprint(self, seen: tuple[int, ...]) -> str:
        """16 hexadecimal digits that another set, or another column of labels, will not have.

        ``seen`` are the sizes at which examples are seen: channels, height and width of images.
        """
        digest = hashlib.blake2b(repr((seen, self.class_names)).encode(), digest_size=8)
        digest.update(self.ids.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def refuse_too_large(where: str, name: str, largest: int) -> None:
    """Raise ``DataError`` if ``largest`` in column ``name`` does not fit 64 bits with a sign."""
    if largest > LARGEST:
        raise DataError(
            f"'{name}' of {where} has {largest}, and the largest number that fits is {LARGEST}; "
            "write it as int64"
        )


def catalogue_of(
    where: str,
    ids: Int64[np.ndarray, " n"],
    label: Column,
    *,
    truth: Column | None = None,
    class_names: Iterable[str] | None = None,
) -> Catalogue:
    """The catalogue of ``where``. Without names a class is called by its number.

    Raises ``DataError`` if there is no example, an id occurs twice, or a label is negative or,
    where names are given, has no name.
    """
    if len(ids) == 0:
        raise DataError(f"{where} is empty: there is not one example in it")
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise DataError(
            f"id {twice[0]} occurs more than once in {where} ({len(twice)} repeated ids); "
            "ids name examples, so each must be unique"
        )
    columns = [label] if truth is None else [label, truth]
    if class_names is None:
        highest = max(int(values.max()) for _, values in columns)
        if highest >= MOST_CLASSES:
            raise DataError(
                f"'{label[0]}' of {where} has the class {highest}, and there may be {MOST_CLASSES} "
                "at most; choose another column with --data.label, or number the classes from 0"
            )
        names = tuple(str(number) for number in range(highest + 1))
    else:
        names = tuple(class_names)
    for name, values in columns:
        outside = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(outside):
            row = outside[0]
            named = "" if class_names is None else f" ({len(names)} class names)"
            raise DataError(
                f"label {values[row]} of id {ids[row]} in column '{name}' of {where} is outside "
                f"0..{max(len(names) - 1, 0)}{named}; mend it, or choose another column "
                "with --data.label"
            )
    return Catalogue(ids, label[1], names, None if truth is None else truth[1])


SAME_CLASSES = (
    "give both the same classes in the same order (of folders, a class without images is an empty "
    "one)"
)
"""The way out where `moved_class` finds one."""


def moved_class(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, int, int] | None:
    """The first class that stands at two numbers: its name, its number in ``ours``, in ``theirs``.

    Sets of which only one has names, the other numbers, have no class in common.
    """
    numbers = {name: number for number, name in enumerate(theirs)}
    for number, name in enumerate(ours):
        if numbers.get(name, number) != number:
            return name, number, numbers[name]
    return None


def require_columns(where: str, there: Iterable[str], **wanted: str | None) -> None:
    """Raise ``DataError`` for the first of ``wanted`` (setting=column) that is not ``there``."""
    names = list(there)
    for setting, column in wanted.items():
        if column is not None and column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise DataError(
                f"{where} has no column '{column}' for --data.{setting}; {hint}"
                f"its columns are {', '.join(names)}"
            )
