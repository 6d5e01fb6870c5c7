"""The file of a table: what others read, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import made, provenance

from superbatch.errors import DataError
from superbatch.tables import LossTable, Piece, TableFile, is_table, write_table
from superbatch.tables import file as table_file


@pytest.fixture
def table(tmp_path):
    made(tmp_path / "t.parquet", [3, 5, 9], [0.5, 0.25, 4.0])
    return tmp_path / "t.parquet"


def test_any_reader_of_parquet_reads_it(table):
    found = pq.read_table(table)
    assert found.schema.names == ["id", "loss"]
    assert found["id"].to_pylist() == [3, 5, 9]
    assert found["loss"].to_pylist() == [0.5, 0.25, 4.0]
    about = json.loads(pq.read_schema(table).metadata[b"superbatch"])
    assert (about["data"], about["view"], about["columns"]["loss"]["weights"]) == (
        "made",
        "plain",
        "loss",
    )


def test_the_encodings_are_those_of_the_specification(table):
    group = pq.ParquetFile(table).metadata.row_group(0)
    assert "DELTA_BINARY_PACKED" in group.column(0).encodings
    assert "BYTE_STREAM_SPLIT" in group.column(1).encodings
    assert {group.column(place).compression for place in (0, 1)} == {"ZSTD"}


def test_pandas_reads_it(table):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(table)
    assert frame.set_index("id")["loss"].to_dict() == {3: 0.5, 5: 0.25, 9: 4.0}


def test_polars_reads_it(table):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.scan_parquet(table).filter(polars.col("loss") < 1).collect()
    assert frame.rows() == [(3, 0.5), (5, 0.25)]


def test_duckdb_reads_it(table):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = duckdb.sql(f"select id, loss from '{table}' where loss < 1 order by loss").fetchall()
    assert rows == [(5, 0.25), (3, 0.5)]


def test_a_table_is_told_from_a_checkpoint(table, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "broken.parquet").write_bytes(b"")
    assert is_table(table)
    assert is_table(tmp_path / "broken.parquet")  # so that it is refused as a table
    assert not is_table(tmp_path / "weights.safetensors")
    assert not is_table(tmp_path)
    assert not is_table(tmp_path / "nowhere.parquet")


def test_row_groups_are_of_one_size_however_the_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr(table_file, "ROWS", 10)
    ids = np.arange(34)
    made(tmp_path / "one.parquet", ids, ids / 8)
    made(tmp_path / "many.parquet", ids, ids / 8, pieces=9)
    meta = pq.ParquetFile(tmp_path / "many.parquet").metadata
    assert [meta.row_group(group).num_rows for group in range(4)] == [10, 10, 10, 4]
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()


def test_a_realistic_loss_takes_less_than_four_bytes(tmp_path):
    losses = np.random.default_rng(0).gamma(0.5, 2.0, size=200_000)
    made(tmp_path / "t.parquet", np.arange(len(losses)), losses)
    assert (tmp_path / "t.parquet").stat().st_size / len(losses) < 4


@pytest.mark.parametrize(
    ("ids", "losses", "words"),
    [
        ([1, 2, 2], [1, 2, 3], "id 2 occurs more than once"),
        ([1, 3, 2], [1, 2, 3], "not sorted by id: 2 comes after 3"),
        ([1, 2, 3], [1, np.nan, 3], "loss of id 2 in column 'loss' .* is nan"),
        ([1, 2, 3], [1, 2, np.inf], "loss of id 3 in column 'loss' .* is inf"),
    ],
)
def test_bad_rows_are_refused_written_and_read(tmp_path, ids, losses, words):
    with pytest.raises(DataError, match=words):
        made(tmp_path / "t.parquet", ids, losses)
    assert not (tmp_path / "t.parquet").exists()
    rows = pa.table({"id": ids, "loss": np.array(losses, dtype=np.float32)})
    about = provenance().model_dump_json()
    pq.write_table(rows.replace_schema_metadata({"superbatch": about}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=words):
        LossTable.open(tmp_path / "other.parquet")


def test_order_is_watched_across_pieces(tmp_path):
    one = Piece(np.array([1, 4]), {"loss": np.ones(2, dtype=np.float32)})
    two = Piece(np.array([4, 5]), {"loss": np.ones(2, dtype=np.float32)})
    with pytest.raises(DataError, match="id 4 occurs more than once"):
        write_table(tmp_path / "t.parquet", provenance(), [one, two])


def rewritten(table, change):
    """The table with ``change`` made to what arrow reads, its metadata kept."""
    found = pq.read_table(table)
    pq.write_table(change(found).replace_schema_metadata(found.schema.metadata), table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["loss"]), "has no column 'loss'; its columns are id"),
        (lambda t: t.drop_columns(["id"]), "has no column 'id'"),
        (lambda t: t.slice(0, 0), "not one row"),
        (
            lambda t: t.set_column(1, "loss", t["loss"].cast("double")),
            "is double and must be float",
        ),
        (
            lambda t: t.set_column(1, "loss", pa.array([1, None, 2], pa.float32())),
            "'loss' of .* has rows without a value",
        ),
    ],
)
def test_a_table_that_others_changed_is_refused(table, change, words):
    rewritten(table, change)
    with pytest.raises(DataError, match=words):
        LossTable.open(table)


def test_a_parquet_file_of_others_is_no_table(tmp_path):
    pq.write_table(pa.table({"id": [1], "score": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"no provenance.*\(id, score\)"):
        TableFile(tmp_path / "t.parquet")


@pytest.mark.parametrize("length", [0, 7, -1, -200])
def test_a_truncated_file_is_refused(table, length):
    whole = table.read_bytes()
    table.write_bytes(whole[:length])
    with pytest.raises(DataError, match="truncated, damaged or no parquet file"):
        LossTable.open(table)


def test_a_flipped_bit_is_found(tmp_path):
    losses = np.random.default_rng(0).random(5000)
    made(tmp_path / "t.parquet", np.arange(5000), losses)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="truncated, damaged"):
        LossTable.open(tmp_path / "t.parquet")


def test_a_newer_format_is_refused(tmp_path):
    made(tmp_path / "t.parquet", [1], [1.0], format=2)
    with pytest.raises(DataError, match="format 2 and this version of superbatch reads up to"):
        TableFile(tmp_path / "t.parquet")


def test_a_provenance_that_says_nothing_is_refused(table):
    found = pq.read_table(table)
    pq.write_table(found.replace_schema_metadata({"superbatch": '{"format": 1}'}), table)
    with pytest.raises(DataError, match="cannot be read: data: Field required"):
        TableFile(table)


def test_a_column_is_named_when_there_are_several(tmp_path):
    path = tmp_path / "t.parquet"
    made(path, [1, 2], {"loss/small": [1, 2], "loss/large": [3, 4]})
    with pytest.raises(DataError, match=r"several .* loss/small, loss/large; .*t.parquet::loss/sm"):
        LossTable.open(path)
    assert is_table(f"{path}::loss/large")
    assert LossTable.open(f"{path}::loss/large").column == "loss/large"
    with pytest.raises(DataError, match="no column 'loss/smal'; did you mean 'loss/small'"):
        LossTable.open(path, "loss/smal")
    assert LossTable.open(path, "loss/large").column == "loss/large"
