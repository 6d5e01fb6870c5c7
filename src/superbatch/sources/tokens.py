"""Texts as numbers: tokens side by side, and those of OpenAI's CLIP, made by open_clip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt16
from torch import Tensor

from superbatch.errors import ConfigError, DataError


VOCABULARY = 49_408
"""How many tokens there are: all are below this."""

START, END = VOCABULARY - 2, VOCABULARY - 1

_AROUND = 2  # START and END are in every text


def encoded(captions: Sequence[str]) -> list[list[int]]:
    """The tokens of each caption, of any length and without start and end.

    None are left of a caption without a printable character. About 11,000 captions a second.
    Raises ``DataError`` where open_clip is not installed.
    """
    if not captions:
        return []
    tokenizer = _tokenizer()
    return [tokenizer.encode(caption) for caption in captions]


@cache
def _tokenizer() -> Any:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise DataError(
            "captions are read with open_clip's tokenizer, and open_clip is not installed: "
            "pip install 'superbatch[clip]'"
        ) from error
    tokenizer = SimpleTokenizer()
    assert tokenizer.all_special_ids == [START, END]
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """The tokens of many texts, one after the other: a text takes as much as it is long."""

    values: UInt16[np.ndarray, " all"] | Int32[np.ndarray, " all"]
    starts: Int64[np.ndarray, " texts_and_1"]
    """Where each text begins in ``values``, and at last where the last one ends."""
    start: int = START
    end: int = END
    padding: int = 0
    """What stands after the end."""

    def lengths(self) -> Int64[np.ndarray, " texts"]:
        """How many tokens each text has, without start and end."""
        return np.diff(self.starts)

    def text(self, rows: Int64[np.ndarray, " n"], context: int) -> Int64[Tensor, "n {context}"]:
        """The texts ``rows`` as models take them: start, tokens, end, then padding.

        Of a text that is too long the first ``context - 2`` tokens are kept, as open_clip and
        transformers do.
        """
        begin = self.starts[rows]
        kept = self._kept(rows, context)
        place = np.arange(context - _AROUND)
        inside = place < kept[:, None]
        text = np.full((len(rows), context), self.padding, dtype=np.int64)
        text[:, 1:-1][inside] = self.values[(begin[:, None] + place)[inside]]
        text[:, 0] = self.start
        text[np.arange(len(rows)), kept + 1] = self.end
        return torch.from_numpy(text)

    def mask(self, rows: Int64[np.ndarray, " n"], context: int) -> Bool[Tensor, "n {context}"]:
        """Where `text` of the same has anything but padding."""
        used = self._kept(rows, context) + _AROUND
        return torch.from_numpy(np.arange(context) < used[:, None])

    def take(self, rows: Int64[np.ndarray, " n"]) -> "Tokens":
        """The same for the texts ``rows`` only, in that order."""
        lengths = self.lengths()[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        moved = np.repeat(self.starts[rows] - starts[:-1], lengths)
        values = self.values[np.arange(starts[-1]) + moved]
        return replace(self, values=values, starts=starts)

    def _kept(self, rows: Int64[np.ndarray, " n"], context: int) -> Int64[np.ndarray, " n"]:
        lengths: Int64[np.ndarray, " n"] = self.starts[rows + 1] - self.starts[rows]
        kept: Int64[np.ndarray, " n"] = np.minimum(lengths, context - _AROUND)
        return kept

    def longer_than(self, context: int) -> int:
        """How many texts ``text`` cuts at ``context``."""
        return int(np.count_nonzero(self.lengths() > context - _AROUND))


def tokenized(texts: Sequence[str], context: int) -> Int64[Tensor, "n {context}"]:
    """``texts`` as models take them; see `Tokens.text`."""
    lists = encoded(texts)
    starts = np.cumsum([0, *map(len, lists)])
    values = np.array([token for tokens in lists for token in tokens], dtype=np.uint16)
    return Tokens(values, starts).text(np.arange(len(texts)), context)


def check_context(context: int) -> None:
    """Raise ``ConfigError`` unless a token fits into ``context`` with a start and an end."""
    if context <= _AROUND:
        raise ConfigError(
            f"--data.context is {context} and every text has a start and an end; it must be at "
            f"least {_AROUND + 1} (CLIP's is 77)"
        )
