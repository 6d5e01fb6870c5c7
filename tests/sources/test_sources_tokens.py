"""Captions as tokens, against open_clip."""

import numpy as np
import pytest

from superbatch.errors import ConfigError
from superbatch.sources.tokens import Tokens, check_context, encoded


CAPTIONS = [
    "A dog runs .",
    "caf\u00e9 &amp; CREME br\u00fbl\u00e9e's  2nd",
    "\U0001f600 \u732b",
    "one two three four five six seven eight nine ten",
    "x",
]


@pytest.mark.parametrize("context", [3, 6, 77])
def test_texts_are_those_of_open_clip(context):
    from open_clip.tokenizer import tokenize

    words = encoded(CAPTIONS)
    starts = np.cumsum([0] + [len(each) for each in words])
    tokens = Tokens(np.concatenate(words).astype(np.uint16), starts)
    rows = np.array([4, 0, 1, 2, 3, 0])
    expected = tokenize([CAPTIONS[row] for row in rows], context)
    assert tokens.text(rows, context).tolist() == expected.tolist()
    # Cut are those of more tokens than lie between start and end.
    assert tokens.longer_than(context) == sum(len(each) > context - 2 for each in words)


def test_a_context_without_room_for_a_word():
    check_context(3)
    with pytest.raises(ConfigError, match=r"--data.context is 2 .* at least 3"):
        check_context(2)
