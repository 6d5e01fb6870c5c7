"""Captions as numbers: the tokens of OpenAI's CLIP, made by open_clip and without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt16
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
    """The tokens of many captions, one after the other: a caption takes as much as it is long."""

    values: UInt16[np.ndarray, " all"]
    starts: Int64[np.ndarray, " captions_and_1"]
    """Where each caption begins in ``values``, and at last where the last one ends."""

    def lengths(self) -> Int64[np.ndarray, " captions"]:
        """How many tokens each caption has, without start and end."""
        return np.diff(self.starts)

    def text(self, rows: Int64[np.ndarray, " n"], context: int) -> Int64[Tensor, "n {context}"]:
        """The captions ``rows`` as models take them: start, tokens, end, then zeros.

        Of a caption that is too long the first ``context - 2`` tokens are kept, as open_clip does.
        """
        begin = self.starts[rows]
        kept = np.minimum(self.starts[rows + 1] - begin, context - _AROUND)
        place = np.arange(context - _AROUND)
        inside = place < kept[:, None]
        text = np.zeros((len(rows), context), dtype=np.int64)
        text[:, 1:-1][inside] = self.values[(begin[:, None] + place)[inside]]
        text[:, 0] = START
        text[np.arange(len(rows)), kept + 1] = END
        return torch.from_numpy(text)

    def longer_than(self, context: int) -> int:
        """How many captions ``text`` cuts at ``context``."""
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
