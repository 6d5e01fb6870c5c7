"""Which data a table is of: a fingerprint that does not depend on the order of the examples.

Each example has a hash of its id and of what is learned of it: its label, its caption, or its text
and label. The
fingerprint is the sum of the hashes modulo 2^64. So it is the same however the examples are
shuffled or sharded, and the fingerprint of a union is the sum of those of its disjoint parts:
tables can be merged, and a table that covers a part of the data can be checked against that part.
"""

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt64


@runtime_checkable
class HasIds(Protocol):
    """Examples with ids. Where they have ``labels``, ``captions`` or ``texts`` too, those count."""

    ids: Int64[np.ndarray, " rows"]


def fingerprint(examples: HasIds, rows: Int64[np.ndarray, " n"] | None = None) -> str:
    """16 hexadecimal digits for ``rows`` of ``examples``, or for all; the order does not matter."""
    chosen = np.arange(len(examples.ids)) if rows is None else rows
    total = 0
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        learned = _learned(examples, part)
        hashes = _mixed(examples.ids[part].astype(np.uint64) ^ _mixed(learned + _SALT))
        total += int(hashes.sum(dtype=np.uint64))
    return _hex(total)


def summed(*fingerprints: str) -> str:
    """The fingerprint of all examples of disjoint sets with these ``fingerprints``."""
    return _hex(sum(int(one, 16) for one in fingerprints))


_AT_ONCE = 1_000_000
_SALT = np.uint64(0x9E3779B97F4A7C15)


def _hex(total: int) -> str:
    return f"{total % 2**64:016x}"


def _learned(examples: HasIds, rows: Int64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    learned: UInt64[np.ndarray, " n"] = np.zeros(len(rows), dtype=np.uint64)
    words = getattr(examples, "captions", None) or getattr(examples, "texts", None)
    if words is not None:
        digests = b"".join(
            hashlib.blake2b(words[row].encode(), digest_size=8).digest() for row in rows.tolist()
        )
        learned = learned + np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    labels = getattr(examples, "labels", None)
    if labels is not None:
        learned = learned + labels[rows].astype(np.uint64)
    return learned


def _mixed(bits: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's finaliser: each bit of the result depends on every bit given."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64[np.ndarray, " n"] = bits ^ (bits >> np.uint64(31))
    return mixed
