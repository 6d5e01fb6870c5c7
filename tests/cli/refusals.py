"""Commands that are refused, and data made for them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits


TINY = [
    "--steps=2",
    "--models.learner=mu-2400/4",
    "--models.online=mu-2400/4",
    "--models.reference=mu-2400/4",
    "--select.super-batch-size=16",
    "--select.sub-batch-size=8",
]


def contents(folder):
    """Every file below ``folder`` with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def parquet(path, *, count=200, broken=(), names=None, labels=None):
    """A table of digits in the Hugging Face layout; the images in ``broken`` are no images."""
    pixels, true_labels = load_digits(return_X_y=True)
    rows = []
    for row in range(count):
        file = io.BytesIO()
        gray = np.rint(pixels[row] * 255 / 16).astype(np.uint8).reshape(8, 8)
        Image.fromarray(gray).save(file, "PNG")
        encoded = b"no image" if row in broken else file.getvalue()
        rows.append({"bytes": encoded, "path": f"{row}.png"})
    label = np.array(true_labels[:count] if labels is None else labels)
    table = pa.table({"image": rows, "label": label})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)
    return str(path)


def npz(path, *, classes=3, side=8):
    images = np.random.default_rng(0).integers(0, 256, (40, side, side), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % classes)
    return str(path)
