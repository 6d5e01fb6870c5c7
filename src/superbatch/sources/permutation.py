"""Randomness that can be asked for at any position: a keyed permutation and a counter-based hash.

Nothing here has state. Position ``p`` of a permutation of a billion is computed from ``p``, the
length and the seed alone, in memory proportional to the positions asked for.
"""

import numpy as np
from jaxtyping import Int64, UInt32, UInt64


EPOCH, FLIP, CROP, RAND_AUGMENT, HALF = range(5)
"""The streams of `random_bits` in use, one for each thing that is decided at random."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def permuted(
    positions: Int64[np.ndarray, " n"], *, length: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """The values at ``positions`` of the permutation of ``range(length)`` that ``seed`` names.

    A Feistel network over the next power of two, walked until the value falls inside the range:
    less than two walks on average (four where ``length`` is 1). ``positions`` lie in
    ``[0, length)``; ``length`` is at least 1 and at most 2**62.
    """
    bits = max(2, (length - 1).bit_length())
    rounds = 6 if bits > 16 else 16  # halves of few bits take more rounds to forget each other
    keys = random_bits(seed, np.arange(rounds), stream=-1).astype(np.uint32)
    values = _shuffled(positions, bits, keys)
    outside = np.flatnonzero(values >= length)
    while outside.size:
        values[outside] = _shuffled(values[outside], bits, keys)
        outside = outside[values[outside] >= length]
    return values


def random_bits(seed: int, draws: Int64[np.ndarray, " n"], stream: int) -> UInt64[np.ndarray, " n"]:
    """64 random bits for every one of ``draws``, a pure function of (``seed``, draw, ``stream``).

    SplitMix64 (Steele, Lea, Flood 2014), read at the position ``draw`` of the sequence that
    ``seed`` and ``stream`` start.
    """
    start = _mixed((_mixed(seed & _MASK) + stream * _GOLDEN) & _MASK)
    bits = draws.astype(np.uint64)
    bits *= np.uint64(_GOLDEN)
    bits += np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def _mixed(word: int) -> int:
    """SplitMix64's finaliser on a Python integer below 2**64."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def _shuffled(
    values: Int64[np.ndarray, " n"], bits: int, keys: UInt32[np.ndarray, " rounds"]
) -> Int64[np.ndarray, " n"]:
    """A bijection of ``[0, 2**bits)``: each half in turn is changed by a hash of the other."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    high = (values >> low_bits).astype(np.uint32)
    low = values.astype(np.uint32) & np.uint32((1 << low_bits) - 1)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        low ^= _hashed(high, first, low_bits)
        high ^= _hashed(low, second, high_bits)
    shuffled = high.astype(np.int64)
    shuffled <<= low_bits
    shuffled |= low
    return shuffled


def _hashed(half: UInt32[np.ndarray, " n"], key: np.uint32, bits: int) -> UInt32[np.ndarray, " n"]:
    """The highest ``bits`` bits of a 32-bit multiplicative hash of ``half``."""
    word = half ^ key
    word *= np.uint32(0x7FEB352D)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x846CA68B)
    word ^= word >> np.uint32(16)
    word *= np.uint32(0x9E3779B1)
    word >>= np.uint32(32 - bits)
    return word
