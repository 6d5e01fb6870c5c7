"""The best of a table, by sorting; DataComp's files, as its own tools read them."""

import bisect

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tables import made

from superbatch.errors import ConfigError, DataError
from superbatch.tables import TableFile, datacomp, fingerprint
from superbatch.tables.named import (
    Named,
    list_origin,
    read_named,
    read_names,
    with_uids,
    write_names,
)
from superbatch.tables.subset import best, best_of_each_class, within


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.5, float("nan")]), min_size=1, max_size=30),
    st.floats(0.01, 1),
    st.sampled_from(["low", "high"]),
)
def test_the_best_are_those_of_a_stable_sort(values, fraction, keep):
    sign = 1 if keep == "low" else -1
    finite = [place for place, value in enumerate(values) if value == value]
    order = sorted(finite, key=lambda place: sign * values[place])
    wanted = sorted(order[: round(fraction * len(values))])
    assert best(np.array(values), fraction=fraction, keep=keep).tolist() == wanted


def test_a_threshold_is_itself_good_enough():
    values = np.array([0.1, 0.3, 0.2, np.nan])
    assert within(values, threshold=0.2, keep="high").tolist() == [1, 2]
    assert within(values, threshold=0.2, keep="low").tolist() == [0, 2]


def test_classes_keep_their_shares():
    classes = np.array([0] * 80 + [1] * 20)
    values = np.where(classes == 1, 100.0, 0.0) + np.arange(
        100
    )  # by value alone class 1 has nothing
    kept = best_of_each_class(values, classes, fraction=0.5, keep="low")
    assert kept.tolist() == [*range(40), *range(80, 90)]


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_is_a_share(fraction):
    with pytest.raises(ConfigError, match=f"--fraction is {fraction}"):
        best(np.ones(3), fraction=fraction, keep="low")


HEX = ["ffffffffffffffff0000000000000001", "00000000000000020000000000000003", "1" * 32]
PAIRS = [(2**64 - 1, 1), (2, 3), (0x1111111111111111, 0x1111111111111111)]


def test_uids_are_their_halves():
    uids = datacomp.uids_of("here", HEX)
    assert uids.dtype == np.dtype("u8,u8")
    assert uids.tolist() == PAIRS
    assert datacomp.texts_of(uids) == HEX
    assert datacomp.uids_of("here", ["1f", "A"]).tolist() == [(0, 31), (0, 10)]


@pytest.mark.parametrize("uid", ["xyz", "", "0x12", "1" * 33, "12 4"])
def test_a_uid_that_is_not_hexadecimal_is_refused(uid):
    with pytest.raises(DataError, match="in row 1 of here is not a 128-bit number"):
        datacomp.uids_of("here", ["1" * 32, uid])


def test_a_row_without_a_uid_is_refused():
    with pytest.raises(DataError, match="uid None in row 1 of here"):
        datacomp.uids_of("here", pa.array(["1" * 32, None]))


def test_a_subset_file_is_what_the_resharder_reads(tmp_path):
    """It loads with a memory map, asserts the type, and searches for divmod(uid, 2**64)."""
    write_names(tmp_path / "s.npy", Named(datacomp.uids_of("here", HEX), {}))
    subset = np.load(tmp_path / "s.npy", mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    assert subset.tolist() == sorted(PAIRS)
    for text, count in [*((text, 1) for text in HEX), ("2" * 32, 0)]:
        key = np.array([divmod(int(text, 16), 2**64)], np.dtype("u8,u8"))[0]
        low, high = (np.searchsorted(subset, key, side) for side in ("left", "right"))
        assert high - low == count
        assert bisect.bisect_left(subset.tolist(), divmod(int(text, 16), 2**64)) == low


def test_subset_files_of_others_are_read(tmp_path):
    uids = np.array([PAIRS[0], PAIRS[1], PAIRS[1]], dtype=datacomp.UID)
    np.save(tmp_path / "s.npy", uids)
    uids.tofile(tmp_path / "bare.npy")
    for name in ("s.npy", "bare.npy"):
        assert read_names(tmp_path / name).tolist() == [PAIRS[1], PAIRS[1], PAIRS[0]]
    np.save(tmp_path / "wrong.npy", np.arange(3))
    with pytest.raises(DataError, match="array of int64"):
        read_names(tmp_path / "wrong.npy")
    (tmp_path / "cut.npy").write_bytes(uids.tobytes()[:-3])
    with pytest.raises(DataError, match="no whole number of uids"):
        read_names(tmp_path / "cut.npy")


def metadata(path, uids, scores):
    pq.write_table(pa.table({"uid": uids, "clip_b32_similarity_score": scores}), path)


def test_metadata_is_a_table(tmp_path):
    metadata(tmp_path / "b.parquet", HEX[2:], [0.5])
    metadata(tmp_path / "a.parquet", HEX[:2], [0.25, 0.125])
    found = read_named(tmp_path, ["clip_b32_similarity_score"])
    assert found.by_uid
    assert found.names.tolist() == PAIRS
    assert found.values["clip_b32_similarity_score"].tolist() == [0.25, 0.125, 0.5]
    with pytest.raises(DataError, match="has no column 'clip'; its columns are uid, clip_b32"):
        read_named(tmp_path / "a.parquet", ["clip"])
    with pytest.raises(ConfigError, match="say which column of it"):
        read_named(tmp_path / "a.parquet", [None])
    words = pa.table({"uid": HEX, "text": ["a"] * 3, "score": [0.5] * 3, "width": [1, 2, 3]})
    pq.write_table(words, tmp_path / "w.parquet")
    with pytest.raises(DataError, match=r"'text' of .* holds string, .* numbers are score, width$"):
        read_named(tmp_path / "w.parquet", ["text"])
    assert read_named(tmp_path / "w.parquet", ["width"]).values["width"].tolist() == [1, 2, 3]
    pq.write_table(pa.table({"uid": [1, 2], "score": [0.5, 1]}), tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"uids of .*n.parquet are int64 and must be text"):
        read_named(tmp_path / "n.parquet", ["score"])
    metadata(tmp_path / "a.parquet", ["nothex", HEX[0]], [0.25, 0.125])
    with pytest.raises(DataError, match=r"uid 'nothex' in row 0 of .*a.parquet"):
        read_named(tmp_path, ["clip_b32_similarity_score"])


def test_ids_become_uids(tmp_path):
    pq.write_table(pa.table({"id": [7, 3, 5], "uid": HEX}), tmp_path / "uids.parquet")
    found = Named(np.array([3, 7]), {"loss": np.array([1.0, 2.0])})
    named = with_uids(found, tmp_path / "uids.parquet")
    assert named.names.tolist() == [PAIRS[1], PAIRS[0]]
    assert named.values["loss"].tolist() == [1, 2]
    with pytest.raises(DataError, match="no uid of 1 of 2 ids"):
        with_uids(Named(np.array([3, 4]), {}), tmp_path / "uids.parquet")
    with pytest.raises(ConfigError, match="has uids already; leave --uids out"):
        with_uids(named, tmp_path / "uids.parquet")


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
@pytest.mark.parametrize("by_uid", [False, True])
def test_lists_come_back(tmp_path, suffix, by_uid):
    names = datacomp.uids_of("here", HEX) if by_uid else np.array([9, 3, 5])
    write_names(tmp_path / f"list{suffix}", Named(names, {"loss": np.array([1.0, 2.0, 3.0])}))
    assert read_names(tmp_path / f"list{suffix}").tolist() == sorted(names.tolist())
    if suffix == ".parquet" and not by_uid:
        assert pq.read_table(tmp_path / "list.parquet").to_pydict() == {
            "id": [3, 5, 9],
            "loss": [2, 3, 1],
        }


def test_what_cannot_be_a_list_is_refused(tmp_path):
    ids = Named(np.array([1]), {})
    with pytest.raises(ConfigError, match=r"holds uids, and the table has ids; .*--uids"):
        write_names(tmp_path / "a.npy", ids)
    with pytest.raises(ConfigError, match=r"\.txt, \.parquet or \.npy"):
        write_names(tmp_path / "a.csv", ids)
    (tmp_path / "a.txt").write_text("1\ntwo\n")
    with pytest.raises(DataError, match="no list of ids"):
        read_names(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(
        DataError, match=r"a.txt is no list of ids, one a line: it is no text; .*npy"
    ):
        read_names(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(f"{2**63}\n")
    with pytest.raises(DataError, match=r"a.txt is no list of ids: one is beyond 64 bits"):
        read_names(tmp_path / "a.txt")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column 'id' or 'uid'"):
        read_names(tmp_path / "x.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"'id' of .*x.parquet holds string with 0 nulls"):
        read_names(tmp_path / "x.parquet")


def test_a_table_of_ours_is_read_by_id(tmp_path):
    made(tmp_path / "t.parquet", [3, 8], {"loss/a": [1, 2], "loss/b": [3, 4]})
    found = read_named(tmp_path / "t.parquet", ["loss/b", "loss/a"])
    assert found.names.tolist() == [3, 8]
    assert {name: values.tolist() for name, values in found.values.items()} == {
        "loss/b": [3, 4],
        "loss/a": [1, 2],
    }


def test_a_column_minus_itself_is_refused(tmp_path):
    made(tmp_path / "t.parquet", [3, 8], [1, 2])
    with pytest.raises(ConfigError, match="--column and --minus are both loss"):
        read_named(tmp_path / "t.parquet", [None, "loss"])


def test_a_list_says_of_which_data_it_is(tmp_path):
    data = made(tmp_path / "t.parquet", [3, 8], [1, 2])
    found = read_named(tmp_path / "t.parquet", [None])
    few = found.take(np.array([1]))
    write_names(tmp_path / "list.parquet", few)
    assert list_origin(tmp_path / "list.parquet").fingerprint == fingerprint(data)
    assert pq.read_table(tmp_path / "list.parquet").to_pydict() == {"id": [8], "loss": [2]}
    pq.write_table(pa.table({"id": [3, 8], "uid": HEX[:2]}), tmp_path / "uids.parquet")
    write_names(tmp_path / "uid-list.parquet", with_uids(few, tmp_path / "uids.parquet"))
    assert list_origin(tmp_path / "uid-list.parquet").fingerprint == fingerprint(data)
    again = read_named(tmp_path / "uid-list.parquet", ["loss"])  # as metadata: a list is no table
    assert again.names.tolist() == [PAIRS[1]]
    with pytest.raises(DataError, match="is a superbatch list and no table of losses"):
        TableFile(tmp_path / "list.parquet")


def test_lists_of_others_say_nothing(tmp_path):
    write_names(tmp_path / "list.parquet", Named(np.array([1]), {}))
    write_names(tmp_path / "list.txt", Named(np.array([1]), {}))
    about = {"superbatch": "no JSON"}
    table = pa.table({"id": [1]}).replace_schema_metadata(about)
    pq.write_table(table, tmp_path / "other.parquet")
    for name in ("list.parquet", "list.txt", "other.parquet"):
        assert list_origin(tmp_path / name) is None
