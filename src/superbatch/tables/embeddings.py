"""Embeddings of pairs, kept beside the table of their losses: float16, one list a row."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.files import write_atomically
from superbatch.tables.file import KEY
from superbatch.tables.provenance import Provenance


def embeddings_path(table: Path) -> Path:
    """Where the embeddings that belong to ``table`` are."""
    return table.with_suffix(".embeddings.parquet")


def write_embeddings(path: Path, provenance: Provenance, parts: Iterable[pa.Table]) -> None:
    """Write ``id`` and the columns of lists of ``parts`` (at least one), atomically, a row group
    each. A file of its own: a row is some hundred times larger than that of a table.
    """

    def write(beside: Path) -> None:
        writer: pq.ParquetWriter | None = None
        with beside.open("wb") as file:
            for part in parts:
                wanted = ["id", *(name for name in part.column_names if _is_list(part, name))]
                table = part.select(wanted).replace_schema_metadata(
                    {KEY: provenance.model_dump_json()}
                )
                if len(wanted) > 1 and len(table):
                    writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
                    writer.write_table(table)
            if writer is not None:
                writer.close()

    write_atomically(path, write)


def _is_list(table: pa.Table, name: str) -> bool:
    return bool(pa.types.is_fixed_size_list(table.schema.field(name).type))
