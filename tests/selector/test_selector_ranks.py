"""The three lines under torchrun with 2 ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loop_on_ranks import ROWS
from selector_parts import digits, linear
from torch.nn import functional


pytestmark = pytest.mark.slow  # three processes that import torch
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, str(HERE / "loop_on_ranks.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_every_rank_keeps_half_of_its_own_rows(ranks):
    for rank, found in enumerate(ranks):
        for step, ids in enumerate(found["ids"]):
            first = step * ROWS + rank * ROWS // 2
            assert len(set(ids)) == ROWS // 4
            assert set(ids) <= set(range(first, first + ROWS // 2))


def test_ranks_draw_by_themselves(ranks):
    places = [[[i % (ROWS // 2) for i in ids] for ids in found["ids"]] for found in ranks]
    assert places[0] != places[1]


def test_online_models_that_began_apart_are_the_same(ranks):
    for one, other in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_they_learn_what_one_process_learns_from_the_rows_of_both(ranks):
    model = linear(10)  # rank 0's, which all begin with
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = [one + other for one, other in zip(*(r["plain ids"] for r in ranks), strict=True)]
    for step, ids in enumerate(kept):
        (batch,) = digits(1, rows=ROWS, first=step * ROWS)
        rows = torch.tensor(ids) - step * ROWS
        optimizer.zero_grad()
        functional.cross_entropy(model(batch["image"][rows]), batch["label"][rows]).backward()
        optimizer.step()
        for name, value in model.state_dict().items():
            assert torch.allclose(value, ranks[0]["plain weights"][step][name], atol=1e-6), name


def test_a_resumed_run_picks_and_learns_the_same(ranks):
    for found in ranks:
        assert found["resumed ids"] == found["ids"][3:]
        for one, other in zip(found["resumed weights"], found["weights"][3:], strict=True):
            assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_global_scores_are_shaped_over_all_rows(ranks):
    # losses 0 1 2 3 on rank 0 and 4 5 6 7 on rank 1; above the mean of all are those of rank 1
    assert [found["local"].tolist() for found in ranks] == [[0, 0, 1, 1]] * 2
    assert [found["global"].tolist() for found in ranks] == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_all_ranks_agree_to_go_on(ranks):
    # rank 0's best half gains 1 / sqrt(1.25) = 0.89 and rank 1's nothing: 0.45 on average, and two
    # choices of 2 of 4 on two ranks are off by sqrt(2 / (2 * 3) / 4) = 0.29 by chance: not 3 of it
    for found in ranks:
        assert "scored 0.4472 standard deviations" in found["off"]
        assert "off by 0.2887" in found["off"]


def test_one_rank_may_score_with_the_learner_while_others_do_not(ranks):
    assert len(ranks[0]["learner ids"]) == ROWS // 4
