"""Digits with captions in words, as WebDataset shards: real pictures that need no download."""

import io
import json
import tarfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


WORDS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905


def write_digits(path, start, count, *, captions=2):
    """``count`` digits from the ``start``-th as a shard at ``path``."""
    images, labels = load_digits(return_X_y=True)
    with tarfile.open(path, "w") as tar:
        for row in range(start, start + count):
            pixels = np.rint(images[row].reshape(8, 8) * 255 / 16).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(file, "PNG")
            word = WORDS[labels[row]]
            said = [f"a handwritten {word} number {row}", f"{word} {row}"][:captions]
            add(tar, f"{row:04d}.png", file.getvalue())
            add(tar, f"{row:04d}.json", json.dumps({"captions": said}).encode())
    return str(path)


def add(tar, name, data):
    """One member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
