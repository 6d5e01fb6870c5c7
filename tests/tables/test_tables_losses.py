"""Losses by id at run time: against dictionaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import made

from superbatch.errors import DataError, RunError
from superbatch.tables import LossTable, dense


def batch_of(ids):
    return {"id": torch.tensor(ids, dtype=torch.int64)}


@pytest.mark.parametrize("gap", [1, 2, 1000])
def test_losses_are_found_by_id(tmp_path, gap):
    ids = 7 + gap * np.arange(500) - 100
    losses = np.random.default_rng(0).random(500).astype(np.float32)
    made(tmp_path / "t.parquet", ids, losses)
    table = LossTable.open(tmp_path / "t.parquet")
    by_id = dict(zip(ids.tolist(), losses.tolist(), strict=True))
    wanted = np.random.default_rng(1).choice(ids, 200)
    found = table(batch_of(wanted.tolist()))
    assert found.dtype == torch.float32
    assert found.tolist() == [by_id[example] for example in wanted.tolist()]
    maps = {path.name.partition(".")[2] for path in (tmp_path / "t.parquet.maps").iterdir()}
    assert maps == ({"0.dense.npy"} if gap < 3 else {"ids.npy", "0.npy"})


@settings(max_examples=40)
@given(st.sets(st.integers(-(2**62), 2**62), min_size=1, max_size=30), st.integers(0, 2**31))
def test_any_ids_are_found_and_others_are_not(tmp_path_factory, ids, seed):
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    ordered = sorted(ids)
    losses = np.random.default_rng(seed).random(len(ordered)).astype(np.float32)
    made(path, ordered, losses)
    table = LossTable.open(path)
    assert table(batch_of(ordered)).tolist() == losses.tolist()
    others = [number for number in [*(one + 1 for one in ordered), 0] if number not in ids]
    assert table.lacks(np.array([*ordered, *others])) == len(others)
    assert table.has(np.array(ordered)).all()


@pytest.mark.parametrize("gap", [1, 1000])
def test_a_missing_id_is_an_error_with_the_count(tmp_path, gap):
    made(tmp_path / "t.parquet", gap * np.arange(10), np.ones(10))
    table = LossTable.open(tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"2 of 3 examples have no loss .* such as id -5; .*--append"
    ):
        table(batch_of([0, -5, 10 * gap]))


@pytest.mark.parametrize("gap", [1, 1000])
def test_a_missing_id_is_scored_by_choice(tmp_path, gap):
    made(tmp_path / "t.parquet", gap * np.arange(10), np.arange(10) / 4)
    seen = []

    def scored(batch):
        seen.append(batch["id"].tolist())
        return batch["id"].float() * 100

    table = LossTable.open(tmp_path / "t.parquet", missing=scored)
    assert table(batch_of([gap, -5, 2 * gap, -7])).tolist() == [0.25, -500, 0.5, -700]
    assert seen == [[-5, -7]]
    assert table(batch_of([gap])).tolist() == [0.25]
    assert len(seen) == 1  # nothing was missing, and nothing was scored


def test_an_empty_batch_has_no_losses(tmp_path):
    made(tmp_path / "t.parquet", [1], [1.0])
    table = LossTable.open(tmp_path / "t.parquet")
    assert table(batch_of([])).shape == (0,)
    assert table.lacks(np.zeros(0, dtype=np.int64)) == 0


def test_the_map_is_made_once(tmp_path):
    made(tmp_path / "t.parquet", np.arange(5), np.arange(5))
    LossTable.open(tmp_path / "t.parquet")
    [made_map] = (tmp_path / "t.parquet.maps").iterdir()
    made_map.write_bytes(made_map.read_bytes()[:-4] + np.float32(9).tobytes())
    assert LossTable.open(tmp_path / "t.parquet")(batch_of([4])).tolist() == [9]


def test_another_table_in_its_place_has_a_map_of_its_own(tmp_path):
    path = tmp_path / "t.parquet"
    made(path, np.arange(5), np.arange(5))
    before = LossTable.open(path)
    made(path, np.arange(5), np.arange(5)[::-1].copy())  # as long, with the same bounds
    assert LossTable.open(path)(batch_of([0, 4])).tolist() == [4, 0]
    assert before(batch_of([0, 4])).tolist() == [0, 4]
    assert len(list((tmp_path / "t.parquet.maps").iterdir())) == 1


def test_the_map_goes_to_the_cache_where_it_must(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))
    made(tmp_path / "t.parquet", np.arange(5), np.arange(5))
    (tmp_path / "t.parquet.maps").write_text("a file where the folder should be")
    assert LossTable.open(tmp_path / "t.parquet")(batch_of([3])).tolist() == [3]
    assert len(list((tmp_path / "cache" / "tables").iterdir())) == 1
    (tmp_path / "other").write_text("")
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "other"))
    with pytest.raises(RunError, match=r"neither beside it nor in .*set SUPERBATCH_CACHE"):
        LossTable.open(tmp_path / "t.parquet")


def test_windows_and_row_groups_may_end_anywhere(tmp_path, monkeypatch):
    from superbatch.tables import file as table_file

    monkeypatch.setattr(table_file, "ROWS", 7)
    monkeypatch.setattr(dense, "_WINDOW", 4)
    ids = np.flatnonzero(np.random.default_rng(0).random(100) < 0.5)
    made(tmp_path / "t.parquet", ids, ids / 2)
    table = LossTable.open(tmp_path / "t.parquet")
    assert table(batch_of(ids.tolist())).tolist() == (ids / 2).tolist()
    assert table.lacks(np.arange(-3, 103)) == 106 - len(ids)
