"""The memory bank: scored examples that wait to be learned from (paper, algorithm 1 and A.6).

A bank of one super-batch *is* Algorithm 1: what arrives pushes everything older out, and one
sub-batch is drawn. With more room, other limits and other uses it is a prioritised replay.

    Bank                        what the loop knows of any bank, and the `Draw` that it gives
    MemoryBank                  draws each example for itself, by its score
    Lockstep, SamplesPerInsert  how many super-batches arrive for each sub-batch that is drawn
"""

from superbatch.bank.draw import Bank, Draw
from superbatch.bank.memory import MemoryBank, ScoreAgain
from superbatch.limits import Limit, Lockstep, SamplesPerInsert, Tally


__all__ = [
    "Bank",
    "Draw",
    "Limit",
    "Lockstep",
    "MemoryBank",
    "SamplesPerInsert",
    "ScoreAgain",
    "Tally",
]
