"""Tables put together: against dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import Labelled, made, provenance

from superbatch.errors import DataError
from superbatch.tables import ScoredBy, TableFile, fingerprint, join_tables, merge_tables
from superbatch.tables import file as table_file


def rows_of(path):
    file = TableFile(path)
    whole = table_file.joined(list(file.pieces()))
    return whole.ids.tolist(), {name: loss.tolist() for name, loss in whole.losses.items()}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(1, 9))
def test_the_rows_of_all_in_order(tmp_path_factory, owners, group):
    """Each id belongs to one of four tables, or to none (the tables may interleave anyhow)."""
    folder = tmp_path_factory.mktemp("t")
    parts = [np.flatnonzero(np.array(owners) == owner) for owner in range(4)]
    paths = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_file, "ROWS", group)
        for place, ids in enumerate(parts):
            if len(ids):
                paths.append(folder / f"{place}.parquet")
                made(paths[-1], ids, ids / 8, labels=ids % 3)
        merge_tables(paths, folder / "all.parquet", command=["merge"])
    ids = np.arange(len(owners))
    assert rows_of(folder / "all.parquet") == (ids.tolist(), {"loss": (ids / 8).tolist()})
    about = TableFile(folder / "all.parquet").provenance
    assert about.fingerprint == fingerprint(Labelled(ids, ids % 3))
    assert about.command == ("merge",)


def test_an_id_in_two_tables_is_refused(tmp_path):
    made(tmp_path / "a.parquet", [1, 2, 5], [1, 2, 3])
    made(tmp_path / "b.parquet", [3, 5, 6], [1, 2, 3])
    with pytest.raises(DataError, match="id 5 is in two of the tables"):
        merge_tables([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "c.parquet")
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"image_size": 32}, r"image_size \(8 and 32\)"),
        ({"precision": "bf16"}, r"precision \(fp32 and bf16\)"),
        ({"view": "flip"}, r"view \(plain and flip\)"),
        ({"columns": provenance(("loss/a",)).columns}, r"columns \(loss and loss/a\)"),
        (
            {
                "columns": {
                    "loss": ScoredBy(model="m", checkpoint="c", weights="w", loss="dot", scale=20)
                }
            },
            r"weights of column loss \(loss and w\); loss of .*; scale of .* \(1.0 and 20.0",
        ),
    ],
)
def test_tables_made_otherwise_are_not_merged(tmp_path, other, words):
    made(tmp_path / "a.parquet", [1], [1.0])
    name = next(iter(other["columns"])) if "columns" in other else "loss"
    made(tmp_path / "b.parquet", [2], {name: [1.0]}, **other)
    with pytest.raises(DataError, match=words):
        merge_tables([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "c.parquet")


def test_columns_of_the_same_examples_are_joined(tmp_path):
    made(tmp_path / "a.parquet", [1, 4], [1, 2])
    made(tmp_path / "b.parquet", [1, 4], {"loss/x": [3, 4], "loss/y": [5, 6]})
    join_tables(
        {"small": tmp_path / "a.parquet", "b": tmp_path / "b.parquet"}, tmp_path / "c.parquet"
    )
    assert rows_of(tmp_path / "c.parquet") == (
        [1, 4],
        {"loss/small": [1, 2], "loss/b/x": [3, 4], "loss/b/y": [5, 6]},
    )
    scorers = TableFile(tmp_path / "c.parquet").provenance.columns
    assert {name: one.weights for name, one in scorers.items()} == {
        "loss/small": "loss",
        "loss/b/x": "loss/x",
        "loss/b/y": "loss/y",
    }


def test_columns_of_other_examples_are_not_joined(tmp_path):
    made(tmp_path / "a.parquet", [1, 4], [1, 2])
    made(tmp_path / "b.parquet", [1, 5], [3, 4])
    with pytest.raises(DataError, match="not of the same examples: 2 rows with fingerprint"):
        join_tables(
            {"a": tmp_path / "a.parquet", "b": tmp_path / "b.parquet"}, tmp_path / "c.parquet"
        )
