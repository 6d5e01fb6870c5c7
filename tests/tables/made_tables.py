"""Tables made on the spot."""

import numpy as np
import torch

from superbatch.tables import Piece, Provenance, ScoredBy, fingerprint, write_table


PREPROCESSING = "images resized to 8 pixels a side, 0..255 brought to -1..1"


class Labelled:
    """Examples that are only ids and labels."""

    def __init__(self, ids, labels):
        self.ids = np.asarray(ids, dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.image_shape = (1, 8, 8)
        self.skipped = frozenset()

    def read(self, rows):
        return {"id": torch.from_numpy(self.ids[rows])}


def provenance(columns=("loss",), **changes):
    """A provenance of ``columns``, each with weights called after it."""
    scorers = {
        name: ScoredBy(model="mu", checkpoint="a", weights=name, loss="cross_entropy")
        for name in columns
    }
    facts = {
        "data": "made",
        "fingerprint": "0" * 16,
        "preprocessing": PREPROCESSING,
        "image_size": 8,
        "columns": scorers,
        "library": "1",
    }
    return Provenance(**facts | changes)


def made(path, ids, losses, *, labels=None, pieces=1, **changes):
    """A table of ``losses`` (an array, or arrays by column) by ``ids``, of the data it returns."""
    ids = np.asarray(ids, dtype=np.int64)
    data = Labelled(ids, np.zeros(len(ids)) if labels is None else labels)
    columns = losses if isinstance(losses, dict) else {"loss": losses}
    columns = {name: np.asarray(loss, dtype=np.float32) for name, loss in columns.items()}
    about = provenance(tuple(columns)).model_copy(
        update={"fingerprint": fingerprint(data)} | changes
    )
    whole = Piece(ids, columns)
    write_table(
        path, about, [whole.take(rows) for rows in np.array_split(np.arange(len(ids)), pieces)]
    )
    return data
