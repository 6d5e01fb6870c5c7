"""What a shard holds, what is left out of it, and the index that is kept of it."""

import io
import json
import os
import tarfile

import pytest
from made_tars import TWO, jpeg, odd, tar_of

from superbatch.errors import DataError
from superbatch.sources import index as index_module
from superbatch.sources.index import indexed, read_index
from superbatch.sources.shards import Shard, shards_of


pytestmark = pytest.mark.usefixtures("cache")


def found(shard, where="a.tar"):
    """(name, caption) of every pair, and what was left out."""
    index = read_index(io.BytesIO(shard), len(shard), where)
    pairs = zip(index.pairs["name"].to_pylist(), index.pairs["caption"].to_pylist(), strict=True)
    return list(pairs), index.skipped


def test_images_and_captions_of_a_name_belong_together():
    shard = tar_of(
        ("./one/x.JPG", jpeg()),  # as "tar cf a.tar ." writes names, and in capitals
        ("x.json", b'{"captions": ["of two", "captions"], "id": 7}'),
        ("./one/x.txt", "\ufeffa caf\u00e9\n".encode()),  # Windows' mark of UTF-8
        ("x.png", jpeg()),
        ("x.cls", b"3"),
        ("y.jpeg", jpeg()),
        ("y.json", b'{"caption": "one"}'),
        ("z.webp", jpeg()),
        ("z.json", b'{"text": ["one", "two"], "url": "http://"}'),
        ("v1.0.jpg", jpeg()),  # the key is v1 and the suffix 0.jpg, which is no image
        ("readme", b"words"),
        (".hidden.txt", b"words"),
    )
    pairs, skipped = found(shard)
    assert pairs == [
        ("./one/x.JPG", "a caf\u00e9"),
        ("x.png", "of two"),
        ("x.png", "captions"),
        ("y.jpeg", "one"),
        ("z.webp", "one"),
        ("z.webp", "two"),
    ]
    assert skipped == {}


def test_a_text_is_one_caption_and_comes_before_json():
    shard = tar_of(
        ("a.jpg", jpeg()), ("a.json", b'{"caption": "not this"}'), ("a.txt", b"two\nlines")
    )
    assert found(shard) == ([("a.jpg", "two\nlines")], {})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("txt", b"", "empty caption"),
        ("txt", b" \n\t", "empty caption"),
        ("txt", "\u200b".encode(), None),  # a blank of no width is a token of its own
        ("json", b'{"captions": ["", "  "]}', "empty caption"),
        ("txt", b"\xff\xfe\x00", "caption that is not UTF-8"),
        ("json", b'{"caption": "a', "broken JSON"),
        ("json", b"[" * 100_000, "broken JSON"),
        ("json", b'{"captions": [1, 2]}', "caption that is not text"),
        ("json", b'{"caption": null}', "caption that is not text"),
        ("json", b'{"id": 3}', "JSON without a caption"),
        ("json", b'["a dog"]', "JSON without a caption"),
        ("json", b'{"caption": "\\ud83d"}', None),  # half a character becomes a question mark
    ],
)
def test_captions_that_cannot_be_used_are_counted(name, content, reason):
    pairs, skipped = found(tar_of(*TWO, ("c.jpg", jpeg()), (f"c.{name}", content)))
    assert pairs[:2] == [("a.jpg", "a dog"), ("b.jpg", "a cat")]
    if reason is None:
        assert (len(pairs), skipped) == (3, {})
    else:
        assert (len(pairs), list(skipped)) == (2, [reason])
    assert sum(skipped.values()) == (2 if b'"  "' in content else reason is not None)


def test_what_has_no_other_half_is_counted():
    shard = tar_of(*TWO, ("c.jpg", jpeg()), ("d.txt", b"a"), ("e.json", b"{}"), ("a.png", jpeg(9)))
    pairs, skipped = found(shard)
    assert pairs == [("a.jpg", "a dog"), ("b.jpg", "a cat")]
    assert skipped == {
        "image without caption": 1,
        "caption without image": 2,
        "second image or caption file of one name": 1,
    }


def test_nothing_that_a_tar_can_trick_with_is_looked_at(tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    sparse = odd("s.txt", tarfile.GNUTYPE_SPARSE)
    shard = tar_of(
        ("/etc/x.jpg", jpeg()),
        ("../y.jpg", jpeg()),
        ("a/../../z.txt", b"words"),
        odd("c.txt", tarfile.SYMTYPE, str(secret)),
        odd("d.txt", tarfile.LNKTYPE, "a.txt"),
        odd("e.jpg", tarfile.CHRTYPE),
        odd("f.jpg", tarfile.FIFOTYPE),
        odd("folder", tarfile.DIRTYPE),
        sparse,
        *TWO,
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    pairs, skipped = found(shard)
    assert pairs == [("a.jpg", "a dog"), ("b.jpg", "a cat")]
    assert skipped == {"name that leads elsewhere": 3, "link, device or sparse file": 5}
    assert sorted(tmp_path.rglob("*")) == before


def test_members_that_are_too_large_are_not_read(monkeypatch):
    monkeypatch.setattr(index_module, "IMAGE_LIMIT", 2000)
    monkeypatch.setattr(index_module, "TEXT_LIMIT", 10)
    shard = tar_of(
        *TWO,
        ("c.jpg", bytes(2001)),
        ("c.txt", b"no count"),
        ("d.jpg", jpeg()),
        ("d.txt", b"11 letters!"),
    )
    pairs, skipped = found(shard)
    assert pairs == [("a.jpg", "a dog"), ("b.jpg", "a cat")]
    assert skipped == {"member that is too large": 2}


def test_long_and_foreign_names():
    stem = "a" * 200 + "/" + "\u732b" * 80
    shard = tar_of((f"{stem}.jpg", jpeg()), (f"{stem}.txt", b"a cat"))
    assert found(shard) == ([(f"{stem}.jpg", "a cat")], {})


# Damage


def test_what_was_whole_before_the_end_is_kept():
    whole = tar_of(*TWO)
    # Each of the four members has a header and one or two blocks of 512 bytes.
    ends = [len(tar_of(*TWO[:count]).rstrip(b"\0")) for count in range(1, 5)]
    for cut in range(0, len(whole), 100):
        pairs, skipped = found(whole[:cut])
        assert pairs == [("a.jpg", "a dog"), ("b.jpg", "a cat")][: sum(cut >= e for e in ends) // 2]
        complete = cut >= -(-ends[3] // 512) * 512 + 512
        assert ("truncated or damaged shard" in skipped) == (not complete)


def test_a_broken_header_ends_the_shard():
    whole = bytearray(tar_of(*TWO))
    start = whole.index(b"b.jpg")
    whole[start + 148 : start + 156] = b"7777777\0"  # its sum
    assert found(bytes(whole)) == ([("a.jpg", "a dog")], {"truncated or damaged shard": 1})


def test_a_negative_size_ends_the_shard():
    whole = bytearray(tar_of(*TWO))
    start = whole.index(b"b.jpg")
    info = tarfile.TarInfo("b.jpg")
    info.size = -4096  # would lead back to members that were read
    whole[start : start + 512] = info.tobuf(tarfile.GNU_FORMAT)
    pairs, skipped = found(bytes(whole))
    assert pairs == [("a.jpg", "a dog")]
    assert skipped["truncated or damaged shard"] == 1


def test_headers_of_nonsense_are_no_tar(tmp_path):
    info = odd("a", tarfile.GNUTYPE_LONGNAME)
    info.size = -512
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + tar_of(*TWO))
    with pytest.raises(DataError, match=r"a\.tar is not a tar file"):
        indexed(Shard(str(tmp_path / "a.tar")))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "a.tar", f"w:{kind}") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    name = {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}[kind]
    with pytest.raises(DataError, match=rf"a\.tar is compressed with {name}, .* unpack it"):
        indexed(Shard(str(tmp_path / "a.tar")))


def test_a_file_that_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"words" * 1000)
    with pytest.raises(DataError, match=r"a\.tar is not a tar file"):
        indexed(Shard(str(tmp_path / "a.tar")))


# The cache


def test_an_index_is_kept_and_not_made_again(folder, cache, monkeypatch):
    shard = Shard(str(folder / "a.tar"))
    first = indexed(shard)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(index_module, "read_index", lambda *_: pytest.fail("read again"))
        again = indexed(shard)
    assert again.pairs.equals(first.pairs)
    assert again.skipped == first.skipped
    assert sorted(path.name for path in folder.iterdir()) == [
        *("a.tar", "b-00.tar", "b-01.tar", "notes.md")
    ]


def test_a_stale_or_broken_index_is_made_again(folder, cache):
    path = folder / "a.tar"
    shard = Shard(str(path))
    first = indexed(shard)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for broken in (b"", whole[:500], whole[:-50], b"PAR1" + bytes(100)):
        kept.write_bytes(broken)
        assert indexed(shard).pairs.equals(first.pairs)
        assert kept.read_bytes() == whole
    # Of the same size, at another time.
    path.write_bytes(tar_of(*TWO[:3], ("b.txt", b"a cow")))
    os.utime(path, ns=(1, 1))
    assert indexed(shard).pairs["caption"].to_pylist() == ["a dog", "a cow"]
    # At the same time, of another size.
    path.write_bytes(tar_of(*TWO[:2], *(("c.jpg", bytes(9000)),)))
    os.utime(path, ns=(1, 1))
    assert indexed(shard).pairs["caption"].to_pylist() == ["a dog"]
    assert indexed(shard).skipped == {"image without caption": 1}


def test_a_folder_that_cannot_be_written_does_no_harm(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "file"))
    assert len(indexed(Shard(str(folder / "a.tar"))).pairs) == 2


def test_the_index_of_real_shards(real_data):
    path = real_data / "coco_mini" / "coco_mini-val-00000.tar"
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    index = indexed(shards_of(str(path))[0])
    assert (len(index.pairs), index.skipped) == (79 * 5, {})
    row = index.pairs.slice(0, 1).to_pylist()[0]
    with tarfile.open(path) as tar:
        image = tar.extractfile(row["name"]).read()
        member = tar.extractfile(row["name"].replace(".jpg", ".json")).read()
    assert row["caption"] == json.loads(member)["captions"][0].strip()
    shard = path.read_bytes()
    assert shard[row["offset"] : row["offset"] + row["size"]] == image
