import base64
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from superbatch.report.gallery import Captioned, Labelled, gallery, thumbnail
from superbatch.report.selection import Choices
from superbatch.sources import open_examples


class TwoClasses:
    """Ids in no order, two of them never scored; a picture is its id in every pixel."""

    def __init__(self):
        self.ids = np.array([99, 13, 10, 12, 98, 11])
        self.labels = np.array([0, 1, 0, 0, 0, 1])
        self.class_names = ("cat", "dog")
        self.asked = []

    def read(self, rows):
        self.asked += list(rows)
        image = np.ones((len(rows), 3, 4, 4), np.uint8) * self.ids[rows][:, None, None, None]
        truth = np.zeros(len(rows), np.int64)
        return {
            "id": self.ids[rows],
            "image": image.astype(np.uint8),
            "label": self.labels[rows],
            "truth": truth,
        }


def choices():
    """Wishes fall with the id; 11 is chosen most, 12 and 14 never; the data has no 14."""
    return Choices(
        ids=np.array([10, 11, 12, 13, 14]),
        seen=np.array([3, 4, 5, 6, 7]),
        chosen=np.array([2, 4, 0, 1, 0]),
        first_chosen=np.zeros(5, np.int64),
        last_step=9,
        means={
            "wish": np.array([2.0, 1.0, 0.0, -1.0, np.nan]),
            "score": np.array([0.4, 0.2, 0.0, -0.2, np.nan]),
            "loss/online": np.array([1.0, 2.0, 3.0, 4.0, np.nan]),
        },
    )


def examples_in(group):
    return [tile.example for tile in group.tiles]


def test_groups_hold_the_examples_of_their_fate_in_order():
    wanted, unwanted, often, never = gallery(choices(), None, criterion="learnability", count=2)
    assert examples_in(wanted) == [10, 11]
    assert examples_in(unwanted) == [13, 12]
    assert examples_in(often) == [11, 10]
    assert examples_in(never) == [14, 12]
    assert "2 of 5" in never.meaning
    assert "online model still finds these harder" in wanted.meaning


def test_tiles_carry_label_truth_losses_and_counts():
    data = TwoClasses()
    wanted, *_, never = gallery(choices(), data, criterion="hard", count=2)
    cat, dog = wanted.tiles
    assert (cat.label, cat.truth, cat.chosen, cat.seen) == ("cat", "cat", 2, 3)
    assert (dog.label, dog.truth) == ("dog", "cat")
    assert dog.losses == {"online": 2.0}
    assert sorted(data.asked) == [1, 2, 3, 5]
    absent = never.tiles[0]
    assert (absent.example, absent.picture, absent.label, absent.losses) == (14, None, None, {})


def test_a_picture_is_the_example_itself():
    wanted, *_ = gallery(choices(), TwoClasses(), criterion="hard", count=2)
    for tile in wanted.tiles:
        data = base64.b64decode(tile.picture.removeprefix("data:image/png;base64,"))
        picture = np.asarray(Image.open(io.BytesIO(data)))
        assert picture.shape == (4, 4, 3)
        assert (picture == tile.example).all()


def test_thumbnails_shrink_and_take_grey():
    def opened(uri):
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))

    assert opened(thumbnail(np.zeros((3, 200, 400), np.uint8))).size == (96, 48)
    assert opened(thumbnail(np.zeros((1, 28, 28), np.uint8))).mode == "L"
    assert opened(thumbnail(np.zeros((4, 8, 8), np.uint8))).mode == "RGB"


class Pairs:
    """Two captions an image; of the second image the second caption is one of the first's."""

    def __init__(self, *, moved=True):
        self.ids = np.array([13, 12, 11, 10])
        self.captions = ["a dog", "a second dog", "a <b>cat</b>", "a second cat"]
        self.moved = moved

    def read(self, rows):
        image_id = np.array([2, 2, 1, 1])[rows]
        caption_of = np.where((self.ids[rows] == 12) & self.moved, 1, image_id)
        batch = {"id": self.ids[rows], "image_id": image_id, "caption_of": caption_of}
        batch["image"] = np.zeros((len(rows), 3, 4, 4), np.uint8)
        batch["text"] = np.zeros((len(rows), 8), np.int64)
        # One that cannot be read is left out.
        return {name: field[self.ids[rows] != 11] for name, field in batch.items()}


def test_tiles_of_pairs_carry_the_caption_and_whether_it_is_the_images():
    wanted, unwanted, *_ = gallery(choices(), Pairs(), criterion="learnability", count=2)
    cat, unread = wanted.tiles
    assert (cat.caption, cat.matched, cat.label) == ("a second cat", True, None)
    assert (unread.example, unread.picture, unread.caption) == (11, None, None)
    dog, moved = unwanted.tiles
    assert (dog.caption, dog.matched) == ("a dog", True)
    assert (moved.caption, moved.matched) == ("a second dog", False)
    assert unwanted.matched == "1 of 2 captions match."
    assert "caption" in unwanted.meaning


def test_captions_of_which_none_was_moved_are_not_called_right():
    groups = gallery(choices(), Pairs(moved=False), criterion="learnability", count=2)
    assert [tile.matched for group in groups for tile in group.tiles] == [None] * 8
    assert {group.matched for group in groups} == {None}


def test_our_sources_are_known_for_what_they_are(tmp_path, monkeypatch):
    assert isinstance(open_examples("digits"), Labelled)
    pytest.importorskip("open_clip", reason="needs the extra [clip]")
    from superbatch.sources.pairs import open_pairs

    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for place in range(14):
            picture = io.BytesIO()
            Image.new("RGB", (4, 4), (place, place, place)).save(picture, "PNG")
            caption = f"<grey> number {place}".encode()
            for suffix, content in (("png", picture.getvalue()), ("txt", caption)):
                member = tarfile.TarInfo(f"{place:02d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    pairs = open_pairs(str(tmp_path / "a.tar"), context=8, caption_noise=0.5)
    assert isinstance(pairs, Captioned)
    assert not isinstance(pairs, Labelled)
    tiles = [t for g in gallery(choices(), pairs, criterion="easy", count=2) for t in g.tiles]
    there = [tile for tile in tiles if tile.example < 14]
    for tile in there:
        own = tile.caption == f"<grey> number {tile.example}"
        assert tile.matched == own
    assert {tile.matched for tile in there} == {True, False}


def test_examples_that_say_nothing_are_shown():
    class Images:
        def __init__(self):
            self.ids = np.arange(20)

        def read(self, rows):
            return {"id": self.ids[rows], "image": np.zeros((len(rows), 1, 4, 4), np.uint8)}

    wanted, *_ = gallery(choices(), Images(), criterion="hard", count=2)
    assert wanted.tiles[0].picture
    assert wanted.tiles[0].label is wanted.tiles[0].caption is None
