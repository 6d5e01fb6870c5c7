"""Seeds: one number from the user, one for each use of it."""

import hashlib

import torch


def derived_seed(seed: int, *names: str) -> int:
    """A seed for one use, in [0, 2^31); different names give unrelated seeds."""
    text = "/".join((str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 2**31


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator for one use. Draws made on the CPU are the same whatever the device is."""
    return torch.Generator().manual_seed(derived_seed(seed, *names))
