"""Tar shards: what is in them, where it is found, and what is left out."""

import io
import json
import os
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from superbatch.errors import ConfigError, DataError
from superbatch.sources import index as index_module
from superbatch.sources.captions import moved_captions
from superbatch.sources.decoding import decoded
from superbatch.sources.index import indexed, read_index
from superbatch.sources.shards import Members, Shard, expanded_braces, shards_of
from superbatch.sources.tokens import Tokens, check_context, encoded


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def jpeg(value=0, side=4):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "JPEG")
    return file.getvalue()


def tar_of(*members):
    """A tar of (name, bytes) and of ready ``TarInfo``s."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def found(shard, where="a.tar"):
    """(name, caption) of every pair, and what was left out."""
    index = read_index(io.BytesIO(shard), len(shard), where)
    pairs = zip(index.pairs["name"].to_pylist(), index.pairs["caption"].to_pylist(), strict=True)
    return list(pairs), index.skipped


def odd(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


TWO = (("a.jpg", jpeg(1)), ("a.txt", b"a dog"), ("b.jpg", jpeg(2)), ("b.txt", b"a cat"))


# What is in a shard


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


def test_images_too_large_to_decode_are_left_out(monkeypatch):
    small, large = jpeg(7, side=20), jpeg(7, side=21)
    files = {}
    for kind in ("PNG", "WEBP"):
        for side in (20, 21):
            file = io.BytesIO()
            Image.new("RGB", (side, side)).save(file, kind)
            files[kind, side] = file.getvalue()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    images = [small, large, files["PNG", 20], files["PNG", 21]]
    images += [files["WEBP", 20], files["WEBP", 21]]
    assert [image is not None for image in decoded(images)] == [True, False] * 3


def test_a_header_cannot_make_us_allocate():
    bomb = bytearray(jpeg())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels, 12.9 GB
    behind = bytes(bomb[:2]) + b"\xff\xff\xff" + bytes(bomb[3:])  # fill bytes are allowed
    hidden = bytes(bomb[:2]) + b"\0junk\0" + bytes(bomb[2:])
    assert list(decoded([bytes(bomb), behind, hidden, jpeg(5)]))[:3] == [None] * 3


# Where shards are


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


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    for name in ("b-01.tar", "b-00.tar", "a.tar"):
        (root / name).write_bytes(tar_of(*TWO))
    (root / "notes.md").write_text("words")
    return root


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


# Reading


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


# Tokens

CAPTIONS = [
    "A dog runs .",
    "caf\u00e9 &amp; CREME br\u00fbl\u00e9e's  2nd",
    "\U0001f600 \u732b",
    "one two three four five six seven eight nine ten",
    "x",
]


@pytest.mark.parametrize("context", [3, 6, 77])
def test_texts_are_those_of_open_clip(context):
    from open_clip.tokenizer import tokenize

    words = encoded(CAPTIONS)
    starts = np.cumsum([0] + [len(each) for each in words])
    tokens = Tokens(np.concatenate(words).astype(np.uint16), starts)
    rows = np.array([4, 0, 1, 2, 3, 0])
    expected = tokenize([CAPTIONS[row] for row in rows], context)
    assert tokens.text(rows, context).tolist() == expected.tolist()
    # Cut are those of more tokens than lie between start and end.
    assert tokens.longer_than(context) == sum(len(each) > context - 2 for each in words)


def test_a_context_without_room_for_a_word():
    check_context(3)
    with pytest.raises(ConfigError, match=r"--data.context is 2 .* at least 3"):
        check_context(2)


# Captions moved on purpose


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 1.0])
def test_so_many_captions_are_of_another_image(fraction):
    image_ids = np.repeat(np.arange(200), 5)
    rows = moved_captions(image_ids, fraction, seed=3)
    assert sorted(rows) == list(range(1000))
    assert (image_ids[rows] != image_ids).sum() == round(fraction * 1000)
    assert (rows != np.arange(1000)).sum() == round(fraction * 1000)
    assert (moved_captions(image_ids, fraction, seed=3) == rows).all()
    if fraction:
        assert (moved_captions(image_ids, fraction, seed=4) != rows).any()


def test_half_of_the_captions_of_one_image_is_the_most_that_can_move():
    for seed in range(20):
        images = np.array([0, 0, 0, 1, 2, 3])
        assert (images[moved_captions(images, 1.0, seed=seed)] != images).all()
    with pytest.raises(ConfigError, match=r"1.0 moves 6 captions, and 4 of them are of one image"):
        moved_captions(np.array([0, 0, 0, 0, 1, 2]), 1.0, seed=0)
    with pytest.raises(ConfigError, match=r"--data.caption-noise is 1.5; it is a share"):
        moved_captions(np.arange(4), 1.5, seed=0)


def test_every_derangement_of_three_is_as_likely_as_the_other():
    rows = [tuple(moved_captions(np.arange(3), 1.0, seed=seed)) for seed in range(400)]
    assert set(rows) == {(1, 2, 0), (2, 0, 1)}
    assert 140 < rows.count((1, 2, 0)) < 260  # 200 and six standard deviations of 10


# Real shards


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
