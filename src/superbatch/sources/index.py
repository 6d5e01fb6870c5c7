"""What is in a tar shard, found once by one pass over it and then kept in a cache folder.

Nothing is ever unpacked: members are read in place, and their names are only used to tell which
belong together. So names that lead elsewhere, links and devices can do no harm; they are counted.

An index is a table with a row for each pair of an image and a caption. It is kept in the cache
folder (``SUPERBATCH_CACHE``, or the user's usual one) under the shard's place, and is made again
if the shard's size or time has changed. Where the folder cannot be written it is made each time.
"""

import contextlib
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.errors import DataError, RunError
from superbatch.files import cache_folder, write_atomically
from superbatch.sources.captions import SUFFIXES, UnusableError, read_captions
from superbatch.sources.shards import ByteFile, Shard
from superbatch.sources.tokens import encoded


IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
"""The members that are images."""

IMAGE_LIMIT, TEXT_LIMIT = 64 * 2**20, 2**20
"""Bytes of the largest members that are read."""

_VERSION = 1  # of the table and of what is in it: raised whenever either changes

_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "digest": pa.binary(16),
        "caption": pa.large_string(),
        "tokens": pa.large_list(pa.uint16()),
    }
)

_BLOCK = 512  # a tar file is made of these; one of zeros ends it

_DAMAGE = (tarfile.TarError, ValueError, OverflowError)  # what tarfile raises for broken headers

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Index:
    """What one shard holds."""

    pairs: pa.Table
    """By row: the image's member ``name``, its ``offset`` and ``size`` in bytes, a ``digest`` that
    equal images share, the ``caption`` and its ``tokens`` (see `superbatch.sources.tokens`)."""
    skipped: Mapping[str, int]
    """How often something was left out, by reason."""


def indexed(shard: Shard) -> Index:
    """The index of ``shard``, from the cache where it is good.

    Raises ``DataError`` if the shard cannot be read, is compressed, or is not a tar file.
    """
    size, stamp = shard.size_and_stamp()
    facts = {"version": _VERSION, "place": shard.place, "size": size, "stamp": stamp}
    kept = (
        cache_folder("shards") / f"{shard.name[-64:]}-{_digest(shard.place.encode()).hex()}.parquet"
    )
    index = _kept(kept, facts)
    if index is None:
        with shard.open() as file:
            index = read_index(file, size, shard.place)
        _keep(kept, facts, index)
    return index


def read_index(file: ByteFile, size: int, where: str) -> Index:
    """The index of the tar of ``size`` bytes in ``file``, by one pass over it.

    Members belong together whose names are the same up to the first dot after the last slash, as
    in WebDataset. What is whole before damage or an early end is kept.
    """
    skipped: Counter[str] = Counter()
    samples: dict[str, _Sample] = {}
    for member in _members(file, size, where, skipped):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if stem and suffix:
            sample = samples.setdefault(folder + slash + stem, _Sample())
            sample.add(member, suffix.lower(), file, skipped)
    rows = [
        {**sample.image, "caption": caption}
        for sample in samples.values()
        for caption in sample.captions(skipped)
    ]
    for row, words in zip(rows, encoded([row["caption"] for row in rows]), strict=True):
        row["tokens"] = words
    spoken = [row for row in rows if row["tokens"]]
    skipped["empty caption"] += len(rows) - len(spoken)
    return Index(pa.Table.from_pylist(spoken, schema=_SCHEMA), dict(+skipped))


@dataclass
class _Sample:
    """The members of one name."""

    image: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    refused: bool = False

    def add(
        self, member: tarfile.TarInfo, suffix: str, file: ByteFile, skipped: Counter[str]
    ) -> None:
        """Take what is needed of ``member``."""
        is_image = suffix in IMAGES
        if not is_image and suffix not in SUFFIXES:
            return
        if (is_image and self.image) or suffix in self.texts:
            skipped["second image or caption file of one name"] += 1
        elif member.size > (IMAGE_LIMIT if is_image else TEXT_LIMIT):
            skipped["member that is too large"] += 1
            self.refused = True
        else:
            file.seek(member.offset_data)
            content = file.read(member.size)
            if not is_image:
                self.texts[suffix] = content
                return
            self.image = {
                "name": member.name.encode(errors="replace").decode(),
                "offset": member.offset_data,
                "size": member.size,
                "digest": _digest(content),
            }

    def captions(self, skipped: Counter[str]) -> list[str]:
        """Those of the image; none where either is missing."""
        found: list[str] = []
        suffix = next((suffix for suffix in SUFFIXES if suffix in self.texts), None)
        try:
            if self.image and suffix is not None:
                found = read_captions(suffix, self.texts[suffix])
        except UnusableError as reason:
            skipped[str(reason)] += 1
            return []
        if not found and not self.refused and (self.image or suffix is not None):
            skipped["image without caption" if self.image else "caption without image"] += 1
        return found


def _members(
    file: ByteFile, size: int, where: str, skipped: Counter[str]
) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar that are wholly there; what else it has is counted."""
    tar = _opened(file, size, where)
    if tar is None:
        skipped["truncated or damaged shard"] += 1
        return
    is_whole = False
    with contextlib.suppress(*_DAMAGE):
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
            if member.size < 0 or member.offset_data + member.size > size:
                break
            reason = _refusal(member)
            if reason is not None:
                skipped[reason] += 1
            elif member.isreg():
                yield member
        # tarfile ends in silence at a broken header. A whole tar has a block of zeros there.
        file.seek(tar.offset)
        is_whole = file.read(_BLOCK) == bytes(_BLOCK)
    if not is_whole:
        skipped["truncated or damaged shard"] += 1


def _opened(file: ByteFile, size: int, where: str) -> tarfile.TarFile | None:
    """The tar in ``file``; ``None`` where it ends within the first header."""
    begin = file.read(6)
    for magic, kind in _COMPRESSED.items():
        if begin.startswith(magic):
            raise DataError(
                f"{where} is compressed with {kind}, so its members cannot be read one by one; "
                "unpack it to a plain .tar (images in it are compressed already)"
            )
    if size < _BLOCK:
        return None
    file.seek(0)
    try:
        # Its type asks for more than it does with a file that is only read.
        return tarfile.TarFile(fileobj=file, encoding="utf-8")  # type: ignore[arg-type]
    except _DAMAGE as error:
        raise DataError(f"{where} is not a tar file: {error}") from error


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why ``member`` is not even looked at."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "name that leads elsewhere"
    if (member.isreg() or member.isdir()) and not member.issparse():
        return None
    return "link, device or sparse file"


def _kept(path: Path, facts: Mapping[str, Any]) -> Index | None:
    """The index in ``path``, unless it is absent, broken or was made from other ``facts``."""
    try:
        pairs = pq.read_table(path)
        about = json.loads(pairs.schema.metadata[b"superbatch"])
        made_from, skipped = about["facts"], about["skipped"]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    pairs = pairs.replace_schema_metadata()
    return Index(pairs, skipped) if made_from == facts and pairs.schema == _SCHEMA else None


def _keep(path: Path, facts: Mapping[str, Any], index: Index) -> None:
    """Write ``index`` to ``path``, if the disk lets us: it only saves time."""
    about = json.dumps({"facts": facts, "skipped": index.skipped})
    pairs = index.pairs.replace_schema_metadata({"superbatch": about})
    with contextlib.suppress(RunError):
        write_atomically(path, lambda beside: pq.write_table(pairs, beside))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
