"""Pictures, or sentences, of what was wanted and what was not."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from superbatch.report.classes import Labels
from superbatch.report.selection import Choices, Ids


@runtime_checkable
class Examples(Protocol):
    """Data at random access, as ``superbatch.sources`` opens it. Row ``i`` has the id ``ids[i]``.

    ``read`` gives ``"id"`` and, where examples are images, ``"image"`` uint8 [n, channels, height,
    width] of those of ``rows`` that can be read. It is `Labelled`, `Captioned` or `Written`, or
    there is nothing to say of an example.
    """

    ids: Any

    def read(self, rows: Any) -> Mapping[str, Any]:
        """The examples at ``rows``."""
        ...


@runtime_checkable
class Labelled(Protocol):
    """Examples whose ``read`` gives ``"label"`` and, where it is known, ``"truth"``, Int64[n]."""

    labels: Any

    @property
    def class_names(self) -> Sequence[str]:
        """One name for each label."""
        ...


@runtime_checkable
class Captioned(Protocol):
    """Examples with a text for each row.

    ``read`` gives ``"image_id"`` and ``"caption_of"``, the image that the text was written for.
    """

    captions: Sequence[str]


@runtime_checkable
class Written(Protocol):
    """Examples that are texts, one for each row."""

    texts: Sequence[str]


OpenExamples = Callable[[Mapping[str, Any]], Examples]
"""From a run's configuration to the data that it learned from."""


@dataclass(frozen=True)
class Tile:
    """One example in the gallery. ``picture`` is a data URI, None where it could not be read;
    of an example that is a ``text`` there is none.

    ``matched``: whether the caption was written for this image, None where that is not known.
    """

    example: int
    picture: str | None
    text: str | None
    label: str | None
    truth: str | None
    caption: str | None
    matched: bool | None
    score: float
    wish: float
    losses: Mapping[str, float]
    seen: int
    chosen: int


@dataclass(frozen=True)
class Group:
    """Some examples that have a fate in common, and why they have it."""

    title: str
    meaning: str
    tiles: tuple[Tile, ...]

    @property
    def matched(self) -> str | None:
        """How many of the captions are those of their images, None where that is not known."""
        known = [tile.matched for tile in self.tiles if tile.matched is not None]
        return f"{sum(known)} of {len(known)} captions match." if known else None


MEANINGS = {
    "learnability": (
        "The online model still finds these harder than the reference does: to be learned.",
        "The reference finds these at least as hard as the online model does: learned already, "
        "or not learnable (a wrong label or caption, noise).",
    ),
    "rho_loss": (
        "The learner still finds these harder than the reference does: to be learned.",
        "The reference finds these at least as hard as the learner does: learned already, or "
        "not learnable (a wrong label or caption, noise).",
    ),
    "hard": (
        "The online model finds these hardest; wrong labels and captions are among the hardest.",
        "The online model finds these easy.",
    ),
    "hard_learner": (
        "The learner finds these hardest; wrong labels and captions are among the hardest.",
        "The learner finds these easy.",
    ),
    "easy": ("The reference finds these easy.", "The reference finds these hard."),
}
"""Why an example is wanted, and why not, by criterion."""


def labels_of(examples: Examples) -> Labels | None:
    """The labels of ``examples`` by id, None where they have none."""
    if not isinstance(examples, Labelled):
        return None
    ids = np.asarray(examples.ids, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    labels = np.asarray(examples.labels, dtype=np.int64)[order]
    return Labels(ids[order], labels, tuple(map(str, examples.class_names)))


def gallery(
    choices: Choices, examples: Examples | None, *, criterion: str, count: int = 12
) -> list[Group]:
    """The most and the least wanted, the most often and the never chosen; ``count`` of each.

    Wanted is by the mean score in its step's standard deviations; ties go to the lower id.
    """
    wish = choices.means["wish"]
    finite = np.flatnonzero(np.isfinite(wish))
    never = np.flatnonzero(choices.chosen == 0)
    wanted = finite[np.argsort(-wish[finite], kind="stable")]
    often = np.argsort(-choices.chosen, kind="stable")
    more, less = MEANINGS.get(criterion, ("The highest scores.", "The lowest scores."))
    fates: list[tuple[str, str, Ids]] = [
        ("Most wanted", more, wanted[:count]),
        ("Least wanted", less, wanted[::-1][:count]),
        ("Most often chosen", "Learned from again and again.", often[:count]),
        (
            "Never chosen",
            f"{len(never):,} of {len(choices.ids):,} that were scored; most often scored first.",
            never[np.argsort(-choices.seen[never], kind="stable")][:count],
        ),
    ]
    shown = look_up(choices.ids[np.unique(np.concatenate([rows for *_, rows in fates]))], examples)
    return [
        Group(title, meaning, tuple(_tile(choices, int(row), shown) for row in rows))
        for title, meaning, rows in fates
    ]


@dataclass(frozen=True)
class Seen:
    """What there is to see of an example; None where there is nothing, or it is not known."""

    picture: str | None = None
    text: str | None = None
    label: str | None = None
    truth: str | None = None
    caption: str | None = None
    matched: bool | None = None


def look_up(ids: Ids, examples: Examples | None) -> dict[int, Seen]:
    """What there is to see of those of ``ids`` that the data has."""
    if examples is None:
        return {}
    here = np.asarray(examples.ids, dtype=np.int64)
    order = np.argsort(here, kind="stable")
    at = np.minimum(np.searchsorted(here[order], ids), len(here) - 1)
    rows = order[at[here[order][at] == ids]]
    if not len(rows):
        return {}
    batch = {name: np.asarray(field) for name, field in examples.read(rows).items()}
    said = _said(batch, rows, examples)
    shown = _shown(batch, rows, examples)
    return {
        int(example): Seen(**what, **words)
        for example, what, words in zip(batch["id"], shown, said, strict=True)
    }


def _shown(batch: Mapping[str, Any], rows: Ids, examples: Examples) -> list[dict[str, Any]]:
    """What each example of ``batch``, which was read from ``rows``, looks like."""
    if isinstance(examples, Written):
        return [{"text": text} for text in _of_rows(examples.texts, batch, rows, examples)]
    return [{"picture": thumbnail(image)} for image in batch["image"]]


def _of_rows(
    words: Sequence[str], batch: Mapping[str, Any], rows: Ids, examples: Examples
) -> list[str]:
    """The words of each example of ``batch``, which may lack some of ``rows``."""
    row_of = dict(zip(np.asarray(examples.ids)[rows].tolist(), rows.tolist(), strict=True))
    return [str(words[row_of[example]]) for example in batch["id"].tolist()]


def _said(batch: Mapping[str, Any], rows: Ids, examples: Examples) -> list[dict[str, Any]]:
    """What is known of each example of ``batch``, which was read from ``rows``."""
    if isinstance(examples, Captioned):
        captions = _of_rows(examples.captions, batch, rows, examples)
        matched = (batch["caption_of"] == batch["image_id"]).tolist()
        if all(matched):  # where no caption was moved, which of them fit is not known
            return [{"caption": caption} for caption in captions]
        pairs = zip(captions, matched, strict=True)
        return [{"caption": caption, "matched": own} for caption, own in pairs]
    if isinstance(examples, Labelled):
        names = [_class_name(examples, label) for label in batch["label"].tolist()]
        if "truth" not in batch:
            return [{"label": name} for name in names]
        truths = [_class_name(examples, truth) for truth in batch["truth"].tolist()]
        return [{"label": n, "truth": t} for n, t in zip(names, truths, strict=True)]
    return [{} for _ in batch["id"]]


def _class_name(examples: Labelled, label: int) -> str:
    names = examples.class_names
    return str(names[label]) if 0 <= label < len(names) else str(label)


def _tile(choices: Choices, row: int, shown: Mapping[int, Seen]) -> Tile:
    example = int(choices.ids[row])
    means = {name: float(column[row]) for name, column in choices.means.items()}
    losses = {
        name.removeprefix("loss/"): value
        for name, value in means.items()
        if "/" in name and np.isfinite(value)
    }
    return Tile(
        example,
        **vars(shown.get(example, Seen())),
        score=means["score"],
        wish=means["wish"],
        losses=losses,
        seen=int(choices.seen[row]),
        chosen=int(choices.chosen[row]),
    )


def thumbnail(image: NDArray[np.uint8], side: int = 96) -> str:
    """A PNG of at most ``side`` pixels a side as a data URI, from uint8 [channels, height, width].

    Smaller images keep their own pixels; the page enlarges them.
    """
    channels = image.shape[0]
    array = np.ascontiguousarray(image[0] if channels < 3 else image[:3].transpose(1, 2, 0))
    picture = Image.fromarray(array)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
