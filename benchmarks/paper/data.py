"""Data: the files of one data set, made once from SUPERBATCH_DATA, and the flags that read them.

Every set with labels has the same files: ``pool`` (learned, noisy), ``clean`` (kept apart, with
true labels), ``both`` (pool and clean in one), ``validation`` (settings are chosen on it; true
labels). In all of them ``label`` is what is learned and ``truth`` what is right.
"""

import contextlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from paper.arm import Flags
from superbatch.sources.tables import names_in


@dataclass(frozen=True)
class Data:
    """One data set. ``make`` writes its files from the folder of data sets to a folder."""

    name: str
    says: str
    make: Callable[[Path, Path], None] | None
    flags: Flags
    evaluated: Mapping[str, Flags]
    """The flags that evaluate on "test" and on "validation"."""
    clean: str = ""
    """What a reference with true labels learns."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Other small sets that a reference can learn, by name; of pairs those of another data set."""
    both: str = ""
    pairs: bool = False
    side: int = 32
    """Of its images, in pixels, as models see them."""

    def read(self, on: str) -> Flags:
        """The flags that learn it and evaluate on "test" or "validation"."""
        return {**self.flags, **self.evaluated[on]}


def ready(data: Data, root: Path, source: Path) -> Path:
    """The folder of the files of ``data`` below ``root``, made the first time."""
    folder = root / "data" / data.name
    if data.make is None or folder.is_dir():
        return folder
    begun = folder.with_name(f".{data.name}.{os.getpid()}")
    begun.mkdir(parents=True)
    try:
        data.make(source, begun)
        with contextlib.suppress(OSError):  # another process was first, with the same files
            begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return folder


def written(path: Path, table: pa.Table, labels: np.ndarray, truth: np.ndarray) -> None:
    """Rows of ``table`` with these labels, in the Hugging Face layout."""
    names = names_in(table.schema.metadata or {}, "label")
    features = {name: {"names": names, "_type": "ClassLabel"} for name in ("label", "truth")}
    about = json.dumps({"info": {"features": features}}).encode()
    columns = [
        table["id"],
        table["image"],
        pa.array(labels, pa.int64()),
        pa.array(truth, pa.int64()),
    ]
    made = pa.Table.from_arrays(columns, names=["id", "image", "label", "truth"])
    pq.write_table(made.replace_schema_metadata({b"huggingface": about}), path)


def write_sets(
    out: Path, table: pa.Table, learned: np.ndarray, rows: Mapping[str, np.ndarray]
) -> None:
    """``pool``, ``clean``, ``both`` and ``validation`` of ``rows``; only the pool has noise."""
    truth = table["label"].to_numpy().astype(np.int64)
    mixed = truth.copy()
    mixed[rows["pool"]] = learned[rows["pool"]]
    both = np.concatenate([rows["pool"], rows["clean"]])
    for name, which in {**rows, "both": both}.items():
        if len(which):
            written(out / f"{name}.parquet", table.take(which), mixed[which], truth[which])


def replaced(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """``truth`` with ``share`` of all labels another class, each other class as likely."""
    random, classes = np.random.default_rng(seed), int(truth.max()) + 1
    labels = truth.copy()
    wrong = random.permutation(len(truth))[: round(share * len(truth))]
    labels[wrong] = (labels[wrong] + random.integers(1, classes, len(wrong))) % classes
    return labels


HUMAN = ("label_aggregate", "label_random1", "label_worse")


def cifar10n(column: str, source: Path, out: Path) -> None:
    """By id: 35,000 to learn, 5,000 to choose settings, 10,000 clean; and those in other labels."""
    table = pq.read_table(source / "cifar10n" / "train.parquet")
    numbers = table["id"].to_numpy()
    bounds = {"pool": (0, 35_000), "validation": (35_000, 40_000), "clean": (40_000, 50_000)}
    rows = {
        name: np.flatnonzero((low <= numbers) & (numbers < high))
        for name, (low, high) in bounds.items()
    }
    write_sets(out, table, table[column].to_numpy().astype(np.int64), rows)
    truth, apart = table["label"].to_numpy(), rows["clean"]
    for name in HUMAN:
        path = out / f"{name}.parquet"
        written(path, table.take(apart), table[name].to_numpy()[apart], truth[apart])


def cifar10(noise: float, source: Path, out: Path) -> None:
    """45,000 to learn, of which RHO-LOSS holds half out as noisy as the rest; 5,000 validation."""
    table = pq.read_table(source / "cifar10n" / "train.parquet", columns=["id", "image", "label"])
    truth, place = table["label"].to_numpy().astype(np.int64), np.arange(len(table))
    rows = {"pool": place[:45_000], "clean": place[:0], "validation": place[45_000:]}
    write_sets(out, table, replaced(truth, noise, seed=0), rows)


def tiny_imagenet(noise: float, source: Path, out: Path) -> None:
    """10,000 clean and 5,000 validation images at random; labels of the others replaced."""
    table = pq.read_table(source / "tiny_imagenet_32" / "train.parquet")
    truth = table["label"].to_numpy().astype(np.int64)
    order = np.random.default_rng(0).permutation(len(table))
    sets = {"clean": order[:10_000], "validation": order[10_000:15_000], "pool": order[15_000:]}
    rows = {name: np.sort(which) for name, which in sets.items()}
    write_sets(out, table, replaced(truth, noise, seed=1), rows)


def digit_images() -> tuple[list[bytes], np.ndarray]:
    """scikit-learn's digits as PNG files, and which digit each is."""
    images, labels = load_digits(return_X_y=True)
    files = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(np.rint(pixels.reshape(8, 8) * 255 / 16).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files, labels.astype(np.int64)


def digits(noise: float, source: Path, out: Path) -> None:
    """Digits with some of the labels replaced: 300 to learn, 100 clean, 50 and 100 to evaluate."""
    files, truth = digit_images()
    images = pa.array([{"bytes": file, "path": None} for file in files])
    columns = {"id": np.arange(len(truth)), "image": images, "label": truth}
    names = {"label": {"names": [f"digit {number}" for number in range(10)]}}
    about = json.dumps({"info": {"features": names}}).encode()
    table = pa.table(columns).replace_schema_metadata({b"huggingface": about})
    place = np.arange(len(truth))
    rows = {
        "pool": place[:300],
        "clean": place[300:400],
        "validation": place[400:450],
        "test": place[450:550],
    }
    write_sets(out, table, replaced(truth, noise, seed=0), rows)


def described_digits(source: Path, out: Path) -> None:
    """Digits with a caption each, as tar shards: 100 curated, 200 to learn, 50 to evaluate on, and
    50 that stand for another data set.
    """
    files, labels = digit_images()
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    bounds = {"clean": (0, 100), "pool": (100, 300), "validation": (300, 350), "test": (350, 400)}
    bounds["others"] = (400, 450)
    for name, (low, high) in bounds.items():
        with tarfile.open(out / f"{name}.tar", "w") as tar:
            for row in range(low, high):
                caption = {"captions": [f"a handwritten {words[labels[row]]} number {row}"]}
                for suffix, content in (
                    ("png", files[row]),
                    ("json", json.dumps(caption).encode()),
                ):
                    info = tarfile.TarInfo(f"{row:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def labelled(
    name: str,
    says: str,
    make: Callable[[Path, Path], None],
    test: str,
    parts: tuple[str, ...] = (),
    side: int = 32,
) -> Data:
    """A set whose files are those of `write_sets`."""
    here = f"$RUNS/data/{name}"
    return Data(
        name=name,
        says=says,
        make=make,
        flags={"data.path": f"{here}/pool.parquet", "data.truth": "truth"},
        evaluated={
            "test": {"data.eval-path": test},
            "validation": {"data.eval-path": f"{here}/validation.parquet"},
        },
        clean=f"{here}/clean.parquet",
        parts={part: f"{here}/{part}.parquet" for part in parts},
        both=f"{here}/both.parquet",
        side=side,
    )


def human(column: str, share: str) -> Data:
    """CIFAR-10 with one kind of CIFAR-10N's labels."""
    name = f"cifar10n-{column.removeprefix('label_')}" if column != "label" else "cifar10n-clean"
    says = f"CIFAR-10, 35,000 images, {share}; 10,000 others are the clean part"
    test = "$DATA/cifar10n/test.parquet"
    return labelled(name, says, partial(cifar10n, column), test, HUMAN)


FLICKR = "$DATA/flickr8k/flickr8k"
DATA: Mapping[str, Data] = MappingProxyType(
    {
        data.name: data
        for data in (
            human("label_worse", "40.2 % of the labels wrong, by people"),
            human("label_random1", "17.2 % of the labels wrong, by people"),
            human("label", "no label wrong"),
            labelled(
                "tiny-imagenet-noisy",
                "Tiny-ImageNet at 32 pixels, 85,000 images, 40 % of the labels replaced at random; "
                "10,000 others are the clean part",
                partial(tiny_imagenet, 0.4),
                "$DATA/tiny_imagenet_32/val.parquet",
            ),
            labelled(
                "cifar10",
                "CIFAR-10, 45,000 images, half of them held out",
                partial(cifar10, 0.0),
                "$DATA/cifar10n/test.parquet",
            ),
            labelled(
                "cifar10-noise10",
                "the same with 10 % of all labels replaced at random, the held-out half's too",
                partial(cifar10, 0.1),
                "$DATA/cifar10n/test.parquet",
            ),
            Data(
                name="flickr8k-moved",
                says="Flickr8k, 4,000 photos with 20,000 captions, 40 % of them moved to another "
                "photo; 2,000 other photos are the curated part",
                make=None,
                flags={
                    "data.path": f"{FLICKR}-train-{{00001..00002}}.tar",
                    "data.caption-noise": "0.4",
                    "data.image-size": "48",
                    "data.context": "24",
                },
                evaluated={
                    "test": {"data.eval-path": f"{FLICKR}-test-00000.tar"},
                    "validation": {"data.eval-path": f"{FLICKR}-dev-00000.tar"},
                },
                clean=f"{FLICKR}-train-00000.tar",
                parts={"COCO": "$DATA/coco_mini/coco_mini-{train,val}-00000.tar"},
                pairs=True,
                side=48,
            ),
            labelled(
                "digits-noisy",
                "300 of scikit-learn's digits, 40 % of the labels replaced; 100 others are clean",
                partial(digits, 0.4),
                "$RUNS/data/digits-noisy/test.parquet",
                side=8,
            ),
            Data(
                name="pairs-moved",
                says="200 digits with captions, 40 % of them moved; 100 others are curated",
                make=described_digits,
                flags={
                    "data.path": "$RUNS/data/pairs-moved/pool.tar",
                    "data.caption-noise": "0.4",
                    "data.context": "8",
                },
                evaluated={
                    name: {"data.eval-path": f"$RUNS/data/pairs-moved/{name}.tar"}
                    for name in ("test", "validation")
                },
                clean="$RUNS/data/pairs-moved/clean.tar",
                parts={"others": "$RUNS/data/pairs-moved/others.tar"},
                pairs=True,
            ),
        )
    }
)


def own(path: str, eval_path: str) -> Data:
    """Data of the user's, for the scale that nobody here has run."""
    flags = {"data.eval-path": eval_path} if eval_path else {}
    return Data(
        name="own",
        says="data of your own",
        make=None,
        flags={"data.path": path},
        evaluated={"test": flags, "validation": flags},
    )
