"""Joint selection: image-text pairs that are worth learning together (JEST, Evans et al., 2024).

In a contrastive batch what a pair costs depends on the others. The sub-batch is therefore drawn in
chunks, each from ``softmax(scores / temperature)`` where a pair's score is its loss *given what is
already chosen*, summed over roles with the criterion's weights. Those losses are kept up to date
chunk by chunk from at most B x chunk logits at a time: the B x B matrix never exists.
"""

from superbatch.joint.bank import JointBank
from superbatch.joint.draw import First, check_chunks, joint_indices
from superbatch.joint.factors import (
    LogitFactors,
    factors_of,
    logit_factors,
    with_factors,
    without_factors,
)
from superbatch.joint.scores import JointScores, own_losses
from superbatch.tasks.contrastive import Loss


__all__ = [
    "First",
    "JointBank",
    "JointScores",
    "LogitFactors",
    "Loss",
    "check_chunks",
    "factors_of",
    "joint_indices",
    "logit_factors",
    "own_losses",
    "with_factors",
    "without_factors",
]
