import base64
import io

import numpy as np
from PIL import Image

from superbatch.report.gallery import gallery, thumbnail
from superbatch.report.selection import Choices


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
