"""A two-tower model that is small enough to be worked out by hand, and pairs to evaluate it on."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize


class LinearTowers(nn.Module):
    """The image's mean colour and the first tokens, each mapped to ``width`` numbers.

    ``images`` counts the images that were encoded. Dropout shows whether eval mode was on.
    """

    def __init__(self, width=8, context=6, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.visual = nn.Linear(3, width)
            self.words = nn.Embedding(50, width)
            self.dropout = nn.Dropout(0.5)
        self.context = context
        self.images = 0

    def encode_image(self, image, normalize=False):
        self.images += len(image)
        return self.dropout(self.visual(image.mean(dim=(2, 3))))

    def encode_text(self, text, normalize=False):
        return self.dropout(self.words(text).mean(dim=1))

    def forward(self, image, text):
        towers = self.encode_image(image), self.encode_text(text)
        return *(normalize(tower, dim=-1) for tower in towers), torch.tensor(1.0)


class MadePairs:
    """Random pairs with the face of a source of pairs: ``captions`` of each of ``images``."""

    def __init__(self, images, captions, *, context=6, seed=0):
        random = np.random.default_rng(seed)
        colours = random.integers(0, 256, (images, 3, 1, 1))
        self.image = np.broadcast_to(colours, (images, 3, 4, 4)).astype(np.uint8)
        self.image_ids = random.permutation(np.repeat(np.arange(images) * 7 + 3, captions))
        self.text = random.integers(0, 50, (len(self.image_ids), context))
        self.ids = np.arange(len(self.image_ids)) + 100
        self.captions = [f"caption {row}" for row in range(len(self.ids))]

    def __len__(self):
        return len(self.ids)

    def read(self, rows):
        image_id = self.image_ids[rows]
        fields = {
            "id": self.ids[rows],
            "image": self.image[(image_id - 3) // 7],
            "text": self.text[rows],
            "image_id": image_id,
            "caption_of": image_id,
        }
        return {name: torch.from_numpy(np.ascontiguousarray(f)) for name, f in fields.items()}

    def batches(self, size):
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))))
