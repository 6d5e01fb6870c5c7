"""What joint selection takes at temperature 0, worked out on paper."""

import pytest
import torch

from superbatch.criterion import CRITERIA
from superbatch.joint import LogitFactors, joint_indices
from superbatch.selection import sample_indices


# Sigmoid losses: softplus(-l) of a pair with itself, softplus(l) of an image with another's text:
#   softplus(3) = 3.049   softplus(2) = 2.127   softplus(1) = 1.313   softplus(-9) = 0.0001
OWN = [-3.0, -2.0, -1.0, -1.0]  # losses alone: 3.049, 2.127, 1.313, 1.313


def logits(**others):
    """The logits of four pairs; ``others`` are named by row and column, the rest are -9."""
    matrix = torch.full((4, 4), -9.0)
    matrix.diagonal().copy_(torch.tensor(OWN))
    for place, value in others.items():
        matrix[int(place[1]), int(place[2])] = value
    return LogitFactors(matrix, torch.eye(4))


def pick(criterion, loss="sigmoid", **factors):
    weights = CRITERIA[criterion].weights
    return joint_indices(factors, weights, 2, loss=loss, chunks=2, temperature=0.0).tolist()


def test_independently_the_two_with_the_highest_losses():
    alone = torch.nn.functional.softplus(-torch.tensor(OWN))
    assert sample_indices(alone, 2, temperature=0.0).tolist() == [0, 1]


def test_pairs_that_do_not_concern_each_other_are_chosen_as_if_alone():
    assert pick("hard", online=logits()) == [0, 1]


@pytest.mark.parametrize("place", ["l03", "l30"])
def test_a_pair_that_is_hard_beside_the_chosen_comes_first(place):
    # After pair 0: pair 1 costs 2.127 + 2 * 0.0001, and pair 3 costs 1.313 + softplus(1) = 2.626,
    # whether image 0 looks like text 3 or image 3 like text 0.
    assert pick("hard", online=logits(**{place: 1.0})) == [0, 3]


def test_what_is_hard_beside_a_pair_that_is_not_chosen_does_not_matter():
    assert pick("hard", online=logits(l23=5.0, l32=5.0)) == [0, 1]


def test_easy_takes_what_is_easy_together():
    # Of minus the losses: pair 2 first (1.313; of equals, the first), then pair 3 (1.313) unless
    # it is hard beside pair 2: 1.313 + softplus(1) = 2.626 against 2.127 of pair 1.
    assert pick("easy", reference=logits()) == [2, 3]
    assert pick("easy", reference=logits(l23=1.0)) == [1, 2]


def test_another_reference_makes_another_choice():
    # Beside pair 0, pair 3 is hard for the online model: learnable, unless for the reference too.
    knows = logits()
    knows.image.diagonal().copy_(torch.full((4,), 9.0))
    does_not = logits(l03=1.0)
    does_not.image.diagonal().copy_(torch.full((4,), 9.0))
    assert pick("learnability", online=logits(l03=1.0), reference=knows) == [0, 3]
    assert pick("learnability", online=logits(l03=1.0), reference=does_not) == [0, 1]


def test_softmax_takes_what_the_chosen_are_mistaken_for():
    # Alone -l: 3, 2, 1, 1. After pair 0, the mean over directions of log(1 + exp(other - own)):
    # pair 1: log(1 + exp(-9 + 2)) = 0.0009; pair 3, with image 3 and text 0 at 1:
    # (log(1 + exp(1 + 1)) + log(1 + exp(-9 + 1))) / 2 = 1.064.
    assert pick("hard", "softmax", online=logits(l30=1.0)) == [0, 3]
    assert pick("hard", "softmax", online=logits(l03=1.0)) == [0, 3]
    # Pair 2: about log(1 + exp(0 + 1)) / 2 = 0.657; pair 1: log(1 + exp(2 + 2)) / 2 = 2.009.
    assert pick("hard", "softmax", online=logits(l20=0.0, l01=2.0)) == [0, 1]
