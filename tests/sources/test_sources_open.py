"""Digits, folders, arrays, hub names, and paths that lead nowhere."""

import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from superbatch.errors import DataError
from superbatch.sources import EncodedExamples, Examples, open_examples


def test_digits():
    examples = open_examples("digits")
    images, labels = load_digits(return_X_y=True)
    assert isinstance(examples, Examples)
    assert (len(examples), examples.image_shape) == (1797, (1, 8, 8))
    assert examples.class_names == tuple("0123456789")
    batch = examples.read(np.array([1796, 0]))
    assert batch["id"].tolist() == [1796, 0]
    assert batch["label"].tolist() == [labels[1796], labels[0]] == [8, 0]
    # The first row of the first digit: 5 -> 79.7, 13 -> 207.2, 9 -> 143.4, 1 -> 15.9.
    assert images[0, :8].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert batch["image"][1, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert open_examples("digits", image_size=16).image_shape == (1, 16, 16)


def test_fingerprints_tell_sets_apart():
    assert open_examples("digits").fingerprint == open_examples("digits").fingerprint
    assert open_examples("digits").fingerprint != open_examples("digits", image_size=4).fingerprint


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for place, value in (("dog/b.png", 10), ("dog/old/a.jpg", 20), ("cat/z.png", 30)):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new(
            "L" if value == 10 else "RGB", (4, 4), value if value == 10 else (value,) * 3
        ).save(root / place)
    (root / "dog" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    return root


@pytest.mark.parametrize("memory_gb", [2.0, 0.0])
def test_a_folder_of_images(folder, memory_gb):
    examples = open_examples(str(folder), memory_gb=memory_gb)
    assert isinstance(examples, EncodedExamples) == (memory_gb == 0)
    assert examples.class_names == ("cat", "dog")
    batch = examples.read(np.array([0, 1, 2]))
    assert batch["label"].tolist() == [0, 1, 1]
    # cat/z.png, dog/b.png (gray), dog/old/a.jpg
    assert batch["image"].float().mean(dim=(1, 2, 3)).tolist() == [30, 10, 20]
    assert batch["image"].shape == (3, 3, 4, 4)


def test_a_folder_without_classes_or_images(folder, tmp_path):
    with pytest.raises(DataError, match=r"dog has files such as b.png|has no sub-folders"):
        open_examples(str(tmp_path / "pets" / "dog" / "old"))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"sub-folders of .*empty, such as cat, hold no images: files named .gif,"
    ):
        open_examples(str(tmp_path / "empty"))


def test_images_of_several_sizes_need_an_image_size(folder):
    Image.new("RGB", (6, 5), (0, 0, 0)).save(folder / "dog" / "c.png")
    with pytest.raises(
        DataError, match=r"the first is 4x4 pixels and id 2 is 5x6; set --data.image-size"
    ):
        open_examples(str(folder))
    examples = open_examples(str(folder), image_size=8)
    assert examples.read(np.arange(4))["image"].shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (("image", "label"), (5, 4, 6, 3)),
        (("images", "labels"), (5, 3, 4, 6)),
        (("x", "y"), (5, 4, 6)),
    ],
)
def test_npz_arrays(names, shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.array([0, 2, 1, 1, 0], dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz", **dict(zip(names, (pixels, labels), strict=True)), human=labels[::-1]
    )
    examples = open_examples(str(tmp_path / "a.npz"), truth="human")
    assert examples.class_names == ("0", "1", "2")
    batch = examples.read(np.array([4, 1]))
    assert batch["label"].tolist() == [0, 2]
    assert batch["truth"].tolist() == [0, 1]
    expected = {4: pixels[[4, 1]], 3: pixels[[4, 1]][:, None]}[len(shape)]
    expected = expected.transpose(0, 3, 1, 2) if names[0] == "image" else expected
    assert batch["image"].numpy().tolist() == expected.tolist()


def test_npz_ids_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 3), np.uint8), y=[0, 1], ids=[70, 50])
    assert open_examples(str(tmp_path / "a.npz")).ids.tolist() == [70, 50]


PIXELS = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "asked", "message"),
    [
        (
            {"x": PIXELS, "y": [0, 1]},
            {"label": "y2"},
            r"no column 'y2' for --data.label; did you mean 'y'",
        ),
        ({"x": PIXELS}, {}, r"no column 'label' for --data.label; its columns are x"),
        (
            {"x": PIXELS / 255.0, "y": [0, 1]},
            {},
            r"'x' .* is float64 \(2, 3, 3\); images are uint8",
        ),
        ({"x": PIXELS, "y": [0.0, 1.0]}, {}, r"'y' .* is float64 \(2,\); 2 integers are needed"),
        ({"x": PIXELS, "y": [0, 1, 2]}, {}, r"'y' .* is int64 \(3,\); 2 integers are needed"),
        ({"x": PIXELS, "y": [0, -1]}, {}, r"label -1 of id 1 in column 'y' .* is outside 0..0"),
        ({"x": PIXELS, "y": [0, 1], "id": [4, 4]}, {}, r"id 4 occurs more than once"),
    ],
)
def test_npz_arrays_that_do_not_fit_are_refused(arrays, asked, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_examples(str(tmp_path / "a.npz"), **asked)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(DataError, match=r"a\.npz is not an \.npz file of arrays"):
        open_examples(str(tmp_path / "a.npz"))


def test_columns_that_digits_and_folders_do_not_have(folder):
    with pytest.raises(
        DataError, match=r"digits has no column 'lable' for --data.label; did you mean"
    ):
        open_examples("digits", label="lable")
    with pytest.raises(DataError, match=r"pets has no column 'human' for --data.truth"):
        open_examples(str(folder), truth="human")


def test_missing_files(folder, monkeypatch):
    with pytest.raises(DataError, match=r"no such file or folder: .*/pet; did you mean .*/pets\?"):
        open_examples(str(folder.parent / "pet"))
    with pytest.raises(DataError, match=r"no such file or folder: nowhere.parquet; check the path"):
        open_examples("nowhere.parquet")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(DataError, match=r"no such file or folder: digit; did you mean digits\?"):
        open_examples("digit")
    with pytest.raises(DataError, match=r"no such file or folder: pets/bird; check the path"):
        open_examples("pets/bird")
    (folder.parent / "table.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"table.csv is of no kind that can be read"):
        open_examples("table.csv")


def test_hub_names_need_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"no file or folder 'owner/birds', .* pip install 'superbatch\[data\]'"
    ):
        open_examples("owner/birds")


class HubSet:
    """What ``datasets.load_dataset`` gives, as far as it is used."""

    def __init__(self, table):
        self.table = table
        self.column_names = table.column_names
        self.features = SimpleNamespace(arrow_schema=table.schema)

    def cast_column(self, name, feature):
        assert (name, feature) == ("image", ("Image", False))
        return self

    def with_format(self, kind):
        assert kind == "arrow"
        return [self.table][0]


def test_a_set_of_the_hub(monkeypatch, folder):
    monkeypatch.chdir(folder)
    (folder / "build").mkdir()  # a name only a little like it changes nothing
    png = (folder / "dog" / "b.png").read_bytes()
    table = pa.table({"image": [{"bytes": png, "path": None}], "label": [1]})
    table = table.replace_schema_metadata(
        {"huggingface": '{"info": {"features": {"label": {"names": ["owl", "wren"]}}}}'}
    )
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "owner/gone":
            raise ConnectionError("no route\nmore lines")
        return HubSet(table)

    package = SimpleNamespace(load_dataset=load_dataset, Image=lambda decode: ("Image", decode))
    monkeypatch.setitem(sys.modules, "datasets", package)
    examples = open_examples("owner/birds-v1.0:test")
    assert examples.class_names == ("owl", "wren")
    assert examples.read(np.array([0]))["label"].tolist() == [1]
    open_examples("birds")
    assert asked == [("owner/birds-v1.0", "test"), ("birds", "train")]
    with pytest.raises(
        DataError, match=r"'owner/gone'.* \(ConnectionError: no route\); check the name"
    ):
        open_examples("owner/gone")
    with pytest.raises(DataError, match=r"owner/birds has no column 'species'"):
        open_examples("owner/birds", label="species")


def test_labels_that_are_objects(tmp_path):
    words = np.array(["cat", "dog", None], dtype=object)
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), dtype=np.uint8), labels=words)
    with pytest.raises(
        DataError, match=r"a.npz holds Python objects, such as labels that are words"
    ):
        open_examples(str(tmp_path / "a.npz"))


def test_a_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((2, 3, 3), np.uint8), y=[0, 1])
    content = bytearray(path.read_bytes())
    place = content.index(b"\x93NUMPY")
    content[place + 130 : place + 140] = b"\x07" * 10  # pixels: the checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz is damaged: .*; write it again"):
        open_examples(str(path))


def test_npz_numbers_beyond_64_bits_with_a_sign(tmp_path):
    ids = np.array([1, 2**63], np.uint64)
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 3), np.uint8), y=[0, 1], ids=ids)
    with pytest.raises(DataError, match=r"'ids' of .*a.npz has 9223372036854775808, and the"):
        open_examples(str(tmp_path / "a.npz"))
