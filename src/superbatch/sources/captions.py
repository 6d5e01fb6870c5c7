"""Captions: read from the members of a shard, and moved between images on purpose."""

import json
from typing import Any

import numpy as np
from jaxtyping import Int64

from superbatch.errors import ConfigError


SUFFIXES = ("txt", "json")
"""The members that hold captions. Where a sample has both, the first is read, as in open_clip."""

FIELDS = ("captions", "caption", "text")
"""The first of these that a .json member has holds its caption, or a list of captions."""


class UnusableError(Exception):
    """A member without a caption that can be read; its text is the reason, to be counted under."""


def read_captions(suffix: str, member: bytes) -> list[str]:
    """The captions of a .txt member, which is one whole caption, or of a .json member.

    Empty ones too. Raises ``UnusableError``.
    """
    try:
        text = member.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableError("caption that is not UTF-8") from error
    if suffix == "txt":
        return [text.strip()]
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError("broken JSON") from error
    there = [fields[name] for name in FIELDS if name in fields] if isinstance(fields, dict) else []
    if not there:
        raise UnusableError("JSON without a caption")
    captions = there[0] if isinstance(there[0], list) else [there[0]]
    if not all(isinstance(caption, str) for caption in captions):
        raise UnusableError("caption that is not text")
    # JSON can hold halves of characters, which no UTF-8 can.
    return [caption.encode(errors="replace").decode().strip() for caption in captions]


def moved_captions(
    image_ids: Int64[np.ndarray, " pairs"], fraction: float, *, seed: int
) -> Int64[np.ndarray, " pairs"]:
    """For each pair the row whose caption it gets, where a ``fraction`` of captions is shuffled.

    Exactly ``round(fraction * pairs)`` pairs, chosen uniformly, exchange their captions at random,
    and every one of them gets a caption of *another* image: a fraction of 0.4 means 40 % wrong
    captions. All else is decided by ``seed``. Raises ``ConfigError`` where that cannot be.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"--data.caption-noise is {fraction}; it is a share, in [0, 1]")
    random = np.random.default_rng(seed)
    rows = np.arange(len(image_ids), dtype=np.int64)
    chosen = random.permutation(rows)[: round(fraction * len(rows))]
    images = image_ids[chosen]
    most = int(np.unique(images, return_counts=True)[1].max(initial=0))
    if 2 * most > len(chosen):
        raise ConfigError(
            f"--data.caption-noise {fraction} moves {len(chosen)} captions, and {most} of them are "
            "of one image, which leaves too few of others to exchange them with; "
            "take more data, or another share"
        )
    source = random.permutation(len(chosen))
    for place in np.flatnonzero(images == images[source]):
        own = images[place]
        if images[source[place]] != own:
            continue  # mended by an exchange with an earlier one
        # There is one: at most 2 * most - 1 places have this image or a caption of it.
        other = random.choice(np.flatnonzero((images != own) & (images[source] != own)))
        source[[place, other]] = source[[other, place]]
    rows[chosen] = chosen[source]
    return rows
