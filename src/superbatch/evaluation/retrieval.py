"""Retrieval: find an image's captions among all captions, and a caption's image among all images.

Every distinct image counts once, with all of its captions; every caption counts. An image finds
its captions within k if any one of them is among the k most similar; a caption, if its image is.
Ties count against: a model that gives everything the same embedding finds nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from superbatch.errors import DataError
from superbatch.evaluation.embeddings import image_embeddings, text_embeddings
from superbatch.types import Batch


WITHIN = (1, 5, 10)
"""The k of R@k."""

TIE = 1e-6
"""Cosines this near are equal: the same two vectors give ones that differ by rounding."""


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls are shares in [0, 1] at 1, 5 and 10, in that order."""

    image_to_text: tuple[float, float, float]
    text_to_image: tuple[float, float, float]
    images: int
    """Distinct images."""
    examples: int
    """Captions, one a pair."""

    @property
    def mean_recall(self) -> float:
        """The mean of all six recalls."""
        return sum((*self.image_to_text, *self.text_to_image)) / (2 * len(WITHIN))

    def metrics(self) -> dict[str, float | int]:
        """The numbers of a row in ``metrics.jsonl``."""
        ways = {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}
        recalls = {
            f"val/{way}_r{k}": share
            for way, shares in ways.items()
            for k, share in zip(WITHIN, shares, strict=True)
        }
        return {**recalls, "val/mean_recall": self.mean_recall}


def evaluate_retrieval(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> RetrievalResult:
    """Recalls of a two-tower ``model`` over all ``batches`` of pairs, without a trace on it.

    Batches have ``image``, ``text`` and ``image_id``; an image of several pairs is encoded once.
    Raises ``DataError`` where there is no pair.
    """
    seen: set[int] = set()
    images, texts, image_ids, text_ids = [], [], [], []
    for batch in batches:
        if not len(batch["image_id"]):
            continue
        new = _first_rows(batch["image_id"], seen)
        if len(new):
            images.append(image_embeddings(model, batch["image"][new], device=device, bf16=bf16))
            image_ids.append(batch["image_id"][new])
        texts.append(text_embeddings(model, batch["text"], device=device, bf16=bf16))
        text_ids.append(batch["image_id"])
    if not texts:
        raise DataError("there is not one pair to evaluate on")
    return retrieval(
        torch.cat(images),
        torch.cat(texts),
        torch.cat(image_ids).to(device),
        torch.cat(text_ids).to(device),
    )


def _first_rows(image_id: Int64[Tensor, " n"], seen: set[int]) -> Int64[Tensor, " m"]:
    """The rows with an image that was not ``seen`` before, which from now on it was."""
    rows = []
    for row, image in enumerate(image_id.tolist()):
        if image not in seen:
            seen.add(image)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


def retrieval(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "m d"],
    image_id: Int64[Tensor, " n"],
    text_id: Int64[Tensor, " m"],
) -> RetrievalResult:
    """Recalls by cosine, of embeddings of any length.

    ``image_id`` are distinct; ``text_id`` says which image each caption belongs to.
    """
    image, text = normalize(image, dim=-1), normalize(text, dim=-1)
    return RetrievalResult(
        _recalls(ranks(image, text, image_id, text_id)),
        _recalls(ranks(text, image, text_id, image_id)),
        images=len(image),
        examples=len(text),
    )


def ranks(
    query: Float[Tensor, "n d"],
    candidate: Float[Tensor, "m d"],
    query_id: Int64[Tensor, " n"],
    candidate_id: Int64[Tensor, " m"],
    *,
    block: int = 2**24,
) -> Int64[Tensor, " n"]:
    """How many wrong candidates are before the best right one; right ones have the query's id.

    One that is as similar (within `TIE`), or not comparable (NaN), is before it. Holds at most
    ``block`` similarities at once, or one row of them.
    """
    rows = max(1, block // len(candidate))
    counts = []
    for part, own in zip(torch.split(query, rows), torch.split(query_id, rows), strict=True):
        similarity = part @ candidate.T
        wrong = own[:, None] != candidate_id
        best = similarity.masked_fill(wrong, -torch.inf).amax(dim=1, keepdim=True)
        behind = similarity < best - TIE
        counts.append((wrong & ~behind).sum(dim=1))
    return torch.cat(counts)


def _recalls(rank: Int64[Tensor, " n"]) -> tuple[float, float, float]:
    one, five, ten = (float((rank < k).double().mean()) for k in WITHIN)
    return one, five, ten
