"""What a run counts of what it saw and chose, worked out by hand."""

import math

import pytest
import torch

from superbatch.actors import Scored
from superbatch.bank import Draw
from superbatch.loop import Step
from superbatch.record import Recorder
from superbatch.run import RunFolder
from superbatch.types import take


def turn(number, chosen, scores=(0.0, 1.0, 2.0, 3.0)):
    """Four examples are scored, the second of which is mislabelled, and ``chosen`` are learned."""
    examples = {
        "id": torch.arange(4),
        "draw": torch.arange(4) + 4 * number,
        "label": torch.tensor([0, 1, 0, 1]),
        "truth": torch.tensor([0, 0, 0, 1]),
    }
    index, scores = torch.tensor(chosen), torch.tensor(scores)
    draw = Draw(take(examples, index), index, scores, torch.zeros(2, dtype=torch.int64))
    return Step(number, (Scored(examples, scores, {}, 0),), draw, {})


def recorder(folder, rows="none"):
    return Recorder(RunFolder(folder), rows=rows, temperature=1.0, roles=())


def test_shares_of_clean_labels_by_hand(tmp_path):
    counts = recorder(tmp_path)
    first = turn(1, [0, 1])
    counts.add(first)
    assert counts.row(first)["selection/clean_share"] == 1 / 2
    found = counts.selection_summary()
    assert found == {"clean_share": 1 / 2, "clean_share_pool": 3 / 4, "non_finite_scores": 0}


def test_shares_are_of_the_whole_run_also_of_one_that_was_interrupted(tmp_path):
    before, counts = recorder(tmp_path), recorder(tmp_path)
    before.add(turn(1, [0, 1]))
    counts.load_state_dict(before.state_dict())
    second = turn(2, [2, 3])
    counts.add(second)
    assert counts.row(second)["selection/clean_share"] == 1.0  # of this step
    found = counts.selection_summary()
    # Rows 0, 1 and then 2, 3 were learned: three of four are clean. Six of eight were seen.
    assert found == {"clean_share": 3 / 4, "clean_share_pool": 6 / 8, "non_finite_scores": 0}


def test_duplicates_are_those_of_all_super_batches_of_the_step(tmp_path):
    counts = recorder(tmp_path)

    def pairs(number, *images):
        images = torch.tensor(images)
        examples = {"id": images, "draw": torch.arange(4) + 4 * number, "image_id": images}
        return Scored(examples, torch.zeros(4), {}, 0)

    def logged(number, *scored):
        age = torch.zeros(2, dtype=torch.int64)
        draw = Draw(take(scored[0].examples, age), age, torch.zeros(4), age)
        step = Step(number, scored, draw, {})
        counts.add(step)
        return counts.row(step)["selection/duplicates"]

    # Three and two copies were left out before; one is still in the second super-batch.
    counts.leave_out(3)
    counts.leave_out(2)
    assert logged(1, pairs(1, 0, 1, 2, 3), pairs(2, 5, 6, 7, 7)) == 6
    assert logged(2, pairs(3, 0, 1, 2, 3)) == 0
    counts.leave_out(1)
    counts.add(turn(3, [0, 1]))  # not logged
    assert logged(4, pairs(4, 0, 0, 0, 0)) == 3


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_score_that_is_not_finite_is_counted(bad, tmp_path):
    before, counts = recorder(tmp_path), recorder(tmp_path)
    before.add(turn(1, [0, 1], (0.0, 1.0, bad, 3.0)))
    assert before.selection_summary()["non_finite_scores"] == 1
    counts.load_state_dict(before.state_dict())
    counts.add(turn(2, [0, 1], (0.0, 1.0, bad, bad)))
    assert counts.selection_summary()["non_finite_scores"] == 3
