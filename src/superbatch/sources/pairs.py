"""Pairs of an image and a caption, at random access."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from superbatch.errors import DataError
from superbatch.sources.captions import moved_captions
from superbatch.sources.examples import EncodedImages, Progress
from superbatch.sources.index import indexed
from superbatch.sources.shards import Members, Shard, shards_of
from superbatch.sources.splits import Splits, split_rows
from superbatch.sources.tokens import VOCABULARY, Tokens, check_context
from superbatch.types import Batch


UNDECODABLE = "pair whose image cannot be decoded"
"""The reason under which `PairExamples.skipped_pairs` counts those that ``skipped`` names."""


@runtime_checkable
class Images(Protocol):
    """Pixels by row."""

    image_shape: tuple[int, int, int]

    @property
    def broken(self) -> Int64[np.ndarray, " broken"]:
        """The rows of broken images met so far."""
        ...

    def read(
        self, rows: Int64[np.ndarray, " n"]
    ) -> tuple[UInt8[Tensor, "m 3 height width"], Bool[np.ndarray, " n"]]:
        """The images of ``rows`` without broken ones, and for each row whether it is there."""
        ...


@final
class DecodedImages:
    """Images in memory: those of the rows where ``readable``, one after the other."""

    def __init__(
        self,
        pixels: UInt8[Tensor, "m 3 height width"],
        readable: Bool[np.ndarray, " rows"],
    ) -> None:
        self._pixels = pixels
        self._readable = readable
        self._place = np.cumsum(readable) - 1
        self.image_shape = (3, pixels.shape[2], pixels.shape[3])
        self.broken = np.flatnonzero(~readable)

    def read(
        self, rows: Int64[np.ndarray, " n"]
    ) -> tuple[UInt8[Tensor, "m 3 height width"], Bool[np.ndarray, " n"]]:
        """See `Images.read`."""
        readable = self._readable[rows]
        place = torch.from_numpy(self._place[rows[readable]])
        return self._pixels.index_select(0, place), readable


@dataclass(frozen=True)
class Captioned:
    """What is known of pairs without their images, by row."""

    image_ids: Int64[np.ndarray, " rows"]
    caption_row: Int64[np.ndarray, " rows"]
    """The row whose caption it has: its own, where captions were not shuffled."""
    captions: Sequence[str]
    tokens: Tokens


@final
class PairExamples:
    """Images with captions, whose rows can be read in any order. Made by `open_pairs`.

    Equal images (byte for byte, encoded) are one image with all their captions. A pair whose image
    is broken keeps its row, and is missing from what is read.
    """

    def __init__(
        self,
        pairs: Captioned,
        images: Images,
        *,
        context: int,
        fingerprint: str,
        skipped_pairs: Mapping[str, int],
    ) -> None:
        self._pairs = pairs
        self._images = images
        self._skipped_pairs = skipped_pairs
        self.context = context
        """Tokens of a text."""
        self.vocabulary = VOCABULARY
        """How many tokens there are."""
        self.ids = np.arange(len(pairs.image_ids), dtype=np.int64)
        """Numbers of the pairs, in the order of the shards' places, of a shard's members, and of an
        image's captions. So they stay the same when shards are added at the end."""
        self.image_ids = pairs.image_ids
        """By row: numbers of the distinct images, in the order in which they first come."""
        self.caption_of = pairs.image_ids[pairs.caption_row]
        """By row: the image that the caption was written for."""
        self.captions = [pairs.captions[row] for row in pairs.caption_row.tolist()]
        """By row: the caption as it was written."""
        self.image_shape = images.image_shape
        self.fingerprint = fingerprint
        """Tells two sets apart: a short hash of images, captions, noise and sizes."""
        self.cut_captions = pairs.tokens.longer_than(context)
        """How many captions are too long for the context, and lose their ends."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> frozenset[int]:
        """Ids of the pairs that were left out because their images are broken, so far."""
        broken = self._images.broken
        return frozenset(self.ids[np.isin(self.image_ids, broken)].tolist() if len(broken) else ())

    @property
    def skipped_pairs(self) -> Mapping[str, int]:
        """How often something was left out so far, by reason: an image, a caption, a member."""
        broken = len(self.skipped)
        return {**self._skipped_pairs, **({UNDECODABLE: broken} if broken else {})}

    def read(self, rows: Int64[np.ndarray, " n"]) -> Batch:
        """The pairs of ``rows`` in that order, without those whose images are broken.

        ``"id"``, ``"image_id"`` and ``"caption_of"`` Int64[m], ``"image"`` UInt8[m, 3, height,
        width] and ``"text"`` Int64[m, context]; ``m`` is ``n`` less the broken ones. A pair is
        matched where ``"caption_of"`` equals ``"image_id"``. Raises ``DataError`` if more than 1 %
        of the images are broken.
        """
        image, readable = self._images.read(self.image_ids[rows])
        rows = rows[readable]
        return {
            "id": torch.from_numpy(self.ids[rows]),
            "image": image,
            "text": self._pairs.tokens.text(self._pairs.caption_row[rows], self.context),
            "image_id": torch.from_numpy(self.image_ids[rows]),
            "caption_of": torch.from_numpy(self.caption_of[rows]),
        }


def open_pairs(
    path: str,
    *,
    context: int,
    image_size: int | None = None,
    memory_gb: float = 2.0,
    caption_noise: float = 0.0,
    noise_seed: int = 0,
    progress: Progress | None = None,
) -> PairExamples:
    """The pairs of ``path``: WebDataset tar shards of images (.jpg, .jpeg, .png, .webp) with
    captions (.txt, .json).

    For what ``path`` can be see `superbatch.sources.shards.shards_of`, for what is a caption
    `superbatch.sources.captions.read_captions`. An image with several captions is as many pairs.
    Texts are ``context`` tokens long, images are resized to ``image_size`` pixels a side; distinct
    images of at most ``memory_gb`` (1e9 bytes of pixels) are decoded once, now, and ``progress``
    is told how many of how many are done. For ``caption_noise`` see `moved_captions`.

    Each shard is read once and its index kept: see `superbatch.sources.index`. Raises
    ``DataError`` for whatever is missing, broken or not what it is said to be.
    """
    check_context(context)
    shards = shards_of(path)
    indexes = [indexed(shard) for shard in shards]
    skipped = sum((Counter(index.skipped) for index in indexes), Counter[str]())
    pairs = pa.concat_tables([index.pairs for index in indexes])
    if len(pairs) == 0:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items())
        raise DataError(
            f"there is not one image with a caption in {path} ({reasons or 'nothing at all'}); "
            "the caption of a.jpg (.jpeg, .png, .webp) is a.txt, or 'caption', 'captions' or "
            "'text' in a.json"
        )
    digests = pairs["digest"].combine_chunks().dictionary_encode()
    image_ids = digests.indices.to_numpy().astype(np.int64)
    lengths = [len(index.pairs) for index in indexes]
    members = _members(shards, lengths, pairs, first=np.unique(image_ids, return_index=True)[1])
    encoded = EncodedImages(members, len(members.name), named=members.named, image_size=image_size)
    images: Images = encoded
    if encoded.count * math.prod(encoded.image_shape) <= memory_gb * 1e9:
        images = DecodedImages(*encoded.all_decoded(progress))
    caption_row = moved_captions(image_ids, caption_noise, seed=noise_seed)
    lists = pairs["tokens"].combine_chunks()
    tokens = Tokens(lists.values.to_numpy(), lists.offsets.to_numpy())
    digest = hashlib.blake2b(repr((images.image_shape, context)).encode(), digest_size=8)
    digest.update(b"".join(digests.dictionary.to_pylist()))
    for part in (image_ids, caption_row, tokens.values, tokens.starts):
        digest.update(part.tobytes())
    return PairExamples(
        Captioned(image_ids, caption_row, pairs["caption"].to_pylist(), tokens),
        images,
        context=context,
        fingerprint=digest.hexdigest(),
        skipped_pairs=dict(skipped),
    )


def _members(
    shards: tuple[Shard, ...],
    lengths: Sequence[int],
    pairs: pa.Table,
    *,
    first: Int64[np.ndarray, " images"],
) -> Members:
    """Where the images of the rows ``first`` are, of ``pairs`` of so many rows from each shard."""
    chosen = pairs.select(["name", "offset", "size"]).take(first)
    return Members(
        shards,
        np.repeat(np.arange(len(shards)), lengths)[first],
        chosen["offset"].to_numpy(),
        chosen["size"].to_numpy(),
        chosen["name"].to_pylist(),
    )


def split_pairs(
    pairs: PairExamples, *, evaluation_fraction: float, holdout_fraction: float, seed: int
) -> Splits:
    """`split_rows` of the images: every caption of an image is in the same part as the image.

    Fractions are shares of the images. Where captions were shuffled, an image may have the caption
    of one in another part.
    """
    images = np.unique(pairs.image_ids)
    parts = split_rows(
        len(images),
        evaluation_fraction=evaluation_fraction,
        holdout_fraction=holdout_fraction,
        seed=seed,
    )
    pool, holdout, evaluation = (
        np.flatnonzero(np.isin(pairs.image_ids, images[part]))
        for part in (parts.pool, parts.holdout, parts.evaluation)
    )
    return Splits(pool, holdout, evaluation)
