"""Texts with labels, at random access: cut into tokens once, when they are opened."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from superbatch.errors import DataError
from superbatch.sources.catalogue import Catalogue, catalogue_of, moved_class, refuse_too_large
from superbatch.sources.examples import BROKEN_LIMIT, Progress
from superbatch.sources.text_tables import TextColumns, TextRows, read_text_rows
from superbatch.sources.tokens import Tokens, check_context
from superbatch.sources.wordpieces import UNKNOWN, WordPieces
from superbatch.types import Batch


@final
class TextExamples:
    """Texts with labels, whose rows can be read in any order. Made by `open_texts`."""

    def __init__(
        self,
        catalogue: Catalogue,
        texts: Sequence[str],
        tokens: Tokens,
        vocabulary: WordPieces,
        *,
        context: int,
        left_out: Mapping[str, int],
    ) -> None:
        self.catalogue = catalogue
        self.texts = texts
        """As they were read, by row."""
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.context = context
        """Tokens of a text as models see it."""
        self.ids = catalogue.ids
        self.labels = catalogue.labels
        self.class_names = catalogue.class_names
        self.skipped: frozenset[int] = frozenset()
        """None: what cannot be used has no row here, and is counted in ``left_out``."""
        self.left_out = left_out
        """How many rows of the table were not used, by reason, and what was lost of the others."""
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def preprocessing(self) -> str:
        """What is done to a text before a model sees it, in words."""
        return f"texts cut to {self.context} tokens of the vocabulary {self.vocabulary.digest}"

    def relabelled(self, labels: Int64[np.ndarray, " rows"]) -> "TextExamples":
        """The same texts with other ``labels``; their own become ``"truth"``."""
        return TextExamples(
            replace(self.catalogue, labels=labels, truth=self.labels),
            self.texts,
            self.tokens,
            self.vocabulary,
            context=self.context,
            left_out=self.left_out,
        )

    def _fingerprint(self) -> str:
        """16 hexadecimal digits that other texts, labels, contexts or vocabularies do not have."""
        known = self.catalogue.fingerprint((self.context,))
        digest = hashlib.blake2b(known.encode(), digest_size=8)
        digest.update(self.vocabulary.digest.encode())
        digest.update(self.tokens.values.tobytes())
        digest.update(self.tokens.starts.tobytes())
        return digest.hexdigest()

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """The examples of ``rows`` in that order: ``"id"`` and ``"label"`` Int64[n], ``"text"``
        Int64[n, context], ``"mask"`` Bool[n, context], true where there is no padding, and, where
        it is known, ``"truth"`` Int64[n].
        """
        return {
            **self.catalogue.fields(rows),
            "text": self.tokens.text(rows, self.context),
            "mask": self.tokens.mask(rows, self.context),
        }


def open_texts(
    path: str,
    vocabulary: WordPieces,
    *,
    context: int,
    columns: TextColumns | None = None,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> TextExamples:
    """The texts of ``path`` with their labels; for what that can be see `read_text_rows`.

    Ids are the column ``id`` where it holds integers, else row numbers, whether or not the row can
    be used. Labels are class numbers where most of them are whole numbers; else classes are named
    by their labels, in alphabetical order. ``class_names`` are those of a set that was read before
    and whose classes these are.

    A row without a text, without a label, or broken is left out and counted; so are texts that
    ``context`` cuts and words that ``vocabulary`` lacks. Raises ``DataError`` if more than 1 % of
    the rows are left out, or for whatever is missing or not what it is said to be.
    """
    check_context(context)
    rows = read_text_rows(path, columns or TextColumns())
    classes = _classes_of(rows, class_names)
    reasons = [_unusable(rows, row, classes) for row in range(len(rows))]
    usable = [row for row, reason in enumerate(reasons) if reason is None]
    tokens = vocabulary.encoded([rows.texts[row] for row in usable], progress)
    printed = np.flatnonzero(tokens.lengths())
    kept = [usable[place] for place in printed.tolist()]
    left_out = Counter(reason for reason in reasons if reason is not None)
    left_out["row without a text"] += len(usable) - len(kept)
    _check_left_out(rows, +left_out)
    tokens = tokens.take(printed)
    left_out[f"end of a text longer than {context} tokens"] = tokens.longer_than(context)
    unknown = int(np.count_nonzero(tokens.values == vocabulary.numbers[UNKNOWN]))
    left_out["word that the vocabulary lacks"] = unknown
    return TextExamples(
        _catalogue(rows, np.array(kept, dtype=np.int64), classes, columns or TextColumns()),
        [rows.texts[row] for row in kept],
        tokens,
        vocabulary,
        context=context,
        left_out=dict(+left_out),
    )


@dataclass(frozen=True)
class _Classes:
    """What labels mean: the number of the class of each value, and the names if there are any."""

    numbers: Mapping[Any, int]
    names: tuple[str, ...] | None


def _unusable(rows: TextRows, row: int, classes: _Classes) -> str | None:
    """Why ``row`` cannot be used; None if it can."""
    text = rows.texts[row]
    if text is None and row in rows.broken:
        return "row of more or fewer fields than the first"
    if text is None or not text.strip():
        return "row without a text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text that is not UTF-8"
    if rows.labels[row] not in classes.numbers:
        return "row without a label"
    return None


def _classes_of(rows: TextRows, class_names: tuple[str, ...] | None) -> _Classes:
    """What the labels of ``rows`` mean. Those below 0 mean, on the hub, that there is none."""
    times = Counter([*rows.labels, *(rows.truths or ())])
    for nothing in (None, ""):
        times.pop(nothing, None)
    whole = {value: number for value in times if (number := _whole(value)) is not None}
    if 2 * sum(times[value] for value in whole) > times.total():
        numbers = {value: number for value, number in whole.items() if number >= 0}
        _refuse_moved(rows, class_names or ())
        return _Classes(numbers, class_names or rows.class_names)
    names = class_names or tuple(sorted(str(value) for value in times))
    unknown = sorted(str(value) for value in times if str(value) not in names)
    if unknown:
        raise DataError(
            f"{rows.where} has the label {unknown[0]!r}, and the classes that are learned are "
            f"{', '.join(names)}; name the right column with --data.eval-label"
        )
    return _Classes({value: names.index(str(value)) for value in times}, names)


def _refuse_moved(rows: TextRows, class_names: tuple[str, ...]) -> None:
    """Raise ``DataError`` where the numbers of ``rows`` name the classes otherwise."""
    moved = moved_class(class_names, rows.class_names or ())
    if moved is not None:
        name, learned, there = moved
        raise DataError(
            f"class {name!r} is number {there} in {rows.where} and {learned} in what is learned; "
            "give both the same classes in the same order"
        )


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _check_left_out(rows: TextRows, left_out: Counter[str]) -> None:
    """Raise ``DataError`` if over 1 % of ``rows`` cannot be used, or none is left."""
    count = left_out.total()
    if count > BROKEN_LIMIT * len(rows):
        reasons = ", ".join(f"{times} x {reason}" for reason, times in left_out.items())
        raise DataError(
            f"{count} of {len(rows)} rows of {rows.where} cannot be used ({reasons}; the limit is "
            f"{BROKEN_LIMIT:.0%}); mend or remove them, or check --data.text and --data.label"
        )


def _catalogue(
    rows: TextRows, kept: Int64[np.ndarray, " n"], classes: _Classes, columns: TextColumns
) -> Catalogue:
    def column(name: str, values: Sequence[Any]) -> Int64[np.ndarray, " n"]:
        numbers = [classes.numbers.get(values[row], -1) for row in kept.tolist()]
        refuse_too_large(rows.where, name, max(numbers, default=0))
        return np.array(numbers, dtype=np.int64)

    truth = None
    if columns.truth is not None and rows.truths is not None:
        truth = (columns.truth, column(columns.truth, rows.truths))
    return catalogue_of(
        rows.where,
        _ids(rows, kept),
        (columns.label, column(columns.label, rows.labels)),
        truth=truth,
        class_names=classes.names,
    )


def _ids(rows: TextRows, kept: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    if rows.ids is None:
        return kept
    numbers = [None if rows.ids[row] is None else _whole(rows.ids[row]) for row in kept.tolist()]
    if None in numbers:
        return kept
    refuse_too_large(rows.where, "id", max(map(abs, filter(None, numbers)), default=0))
    return np.array(numbers, dtype=np.int64)
