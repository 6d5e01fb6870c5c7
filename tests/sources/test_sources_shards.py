"""Where shards are found, near and far, and reading their members."""

import io
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from made_tars import TWO, jpeg, tar_of

from superbatch.errors import DataError
from superbatch.sources.index import indexed, read_index
from superbatch.sources.shards import Members, Shard, expanded_braces, shards_of


pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{00..02}.tar", ["a-00.tar", "a-01.tar", "a-02.tar"]),
        ("a-{9..11}", ["a-9", "a-10", "a-11"]),
        ("{x,y}/{1..2}", ["x/1", "x/2", "y/1", "y/2"]),
        ("a{b}c{}", ["a{b}c{}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern, names):
    assert list(expanded_braces(pattern)) == names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.tar", "b-00.tar", "b-01.tar"]),
        ("/", ["a.tar", "b-00.tar", "b-01.tar"]),
        ("/a.tar", ["a.tar"]),
        ("/b-*.tar", ["b-00.tar", "b-01.tar"]),
        ("/b-0[1-9].tar", ["b-01.tar"]),
        ("/b-{01..00}.tar", ["b-00.tar", "b-01.tar"]),
        ("/{a,b-*}.tar", ["a.tar", "b-00.tar", "b-01.tar"]),
    ],
)
def test_the_shards_of_a_path(folder, pattern, names, monkeypatch):
    shards = shards_of(f"{folder}{pattern}")
    assert [shard.name for shard in shards] == names
    assert all(shard.place == str(folder / shard.name) for shard in shards)
    monkeypatch.chdir(folder.parent)
    assert shards_of(f"shards{pattern}") == shards


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1]{2,3}.tar").write_bytes(tar_of(*TWO))
    path = str(tmp_path / "a[1]{2,3}.tar")
    (shard,) = shards_of(path)
    assert shard.place == path
    assert len(indexed(shard).pairs) == 2


def test_a_folder_whose_name_looks_like_a_pattern(folder, tmp_path):
    named = tmp_path / "data[1]*"
    shutil.copytree(folder, named)
    there = sorted(path.name for path in folder.glob("*.tar"))
    assert there
    for path in (str(named), f"{named}/"):
        assert [Path(shard.place).name for shard in shards_of(path)] == there


def test_paths_that_lead_nowhere(folder):
    with pytest.raises(DataError, match=r"no file that .*/c-\*\.tar matches; check the pattern"):
        shards_of(f"{folder}/c-*.tar")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no .tar files in .*sub, but a.tar.gz; .*not compressed"):
        shards_of(f"{folder}/sub")
    for name in ("b-02.tar", "nowhere"):
        with pytest.raises(DataError, match=rf"no such file or folder: .*{name}; check the path"):
            indexed(shards_of(f"{folder}/{name}")[0])
    with pytest.raises(DataError, match=r"nofs://x.tar cannot be opened: .*nofs"):
        shards_of("nofs://x.tar")


@pytest.fixture
def far():
    """A file system that is not on any disk."""
    system = fsspec.filesystem("memory")
    for name in ("b-01.tar", "b-00.tar"):
        system.pipe(f"/there/{name}", tar_of(*TWO))
    yield system
    system.rm("/there", recursive=True)


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/b-{00..01}.tar"])
def test_shards_that_are_far(far, pattern):
    shards = shards_of(f"memory://there{pattern}")
    assert [shard.place for shard in shards] == [f"memory:///there/b-0{n}.tar" for n in (0, 1)]
    assert not shards[0].is_local
    index = indexed(shards[0])
    assert index.pairs.equals(read_index(io.BytesIO(tar_of(*TWO)), len(tar_of(*TWO)), "here").pairs)
    offset, size = (index.pairs[name].to_numpy() for name in ("offset", "size"))
    where = np.array([len(shards) - 1, 0])
    members = Members(shards, where, offset, size, ("a", "b"))
    rows = np.array([1, 0, 1])
    assert members(rows) == [jpeg(2), jpeg(1), jpeg(2)]
    far.pipe(f"/there/{shards[0].name}", b"")
    with pytest.raises(DataError, match=r"b-00.tar has become shorter"):
        members(rows)
    far.rm(f"/there/{shards[0].name}")
    with pytest.raises(DataError, match=r"no such file or folder: memory:///there/b-00.tar"):
        members(rows)


def test_far_files_that_are_absent_or_change(far, cache):
    with pytest.raises(DataError, match=r"no such file or folder: memory:///there/c.tar"):
        indexed(shards_of("memory://there/c.tar")[0])
    shard = shards_of("memory://there/b-00.tar")[0]
    before = indexed(shard)
    far.pipe("/there/b-00.tar", tar_of(*TWO[:2]))
    assert (len(before.pairs), len(indexed(shard).pairs)) == (2, 1)


def test_members_are_read_in_any_order_after_pickling(folder):
    contents = [jpeg(value) for value in range(4)]
    shards = []
    for number in range(2):
        path = folder / f"c-{number}.tar"
        path.write_bytes(b"".join(contents[2 * number : 2 * number + 2]))
        shards.append(Shard(str(path)))
    sizes = np.array([len(content) for content in contents])
    members = Members(
        tuple(shards),
        np.array([0, 0, 1, 1]),
        np.array([0, sizes[0], 0, sizes[2]]),
        sizes,
        ("a", "b", "c", "d"),
    )
    for each in (members, pickle.loads(pickle.dumps(members))):
        rows = np.array([3, 0, 2, 1, 3])
        assert each(rows) == [contents[row] for row in rows]
    assert members.named([2, 1]) == "c-1.tar/c, c-0.tar/b"
    (folder / "c-1.tar").write_bytes(contents[2])
    with pytest.raises(DataError, match=r"c-1.tar has become shorter since it was indexed"):
        members(np.array([3]))
    (folder / "c-1.tar").unlink()
    with pytest.raises(DataError, match=r"no such file or folder: .*c-1.tar"):
        members(np.array([3]))
