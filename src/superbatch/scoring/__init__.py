"""Scoring a data set once: a loss an example, to be kept as a table.

Job, score           what is scored, a block at a time, in this process
score_in_processes   the same blocks by several processes
Parts                the finished blocks, which a kill leaves as they are
"""

from superbatch.scoring.blocks import Job, Parts, Totals, blocks_of, score
from superbatch.scoring.processes import score_in_processes


__all__ = ["Job", "Parts", "Totals", "blocks_of", "score", "score_in_processes"]
