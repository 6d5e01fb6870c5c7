"""A table of 1e8 losses: write, verify, open, look up; against numpy, duckdb and polars.

    python benchmarks/tables.py [--rows 100000000] [--folder FOLDER]

Needs some 2 GB of disk (FOLDER, which is emptied of what this writes) and 2 GB of memory.
"""

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ratios import ratio, verdict

from superbatch.tables import (
    LossTable,
    Piece,
    Provenance,
    ScoredBy,
    TableFile,
    fingerprint,
    write_table,
)
from superbatch.tables.check import check_data, verify_file
from superbatch.tables.dense import Dense


LOOKUPS = 32_768
PIECE = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        return not measured(Path(folder) / "table.parquet", given.rows)


def measured(path: Path, rows: int) -> bool:
    data = SimpleNamespace(ids=np.arange(rows), labels=np.broadcast_to(np.int64(0), rows))
    about = Provenance(
        data="made on the spot",
        fingerprint=fingerprint(data),
        preprocessing="none",
        image_size=1,
        columns={"loss": ScoredBy(model="none", checkpoint="", weights="", loss="cross_entropy")},
        library="benchmark",
    )
    print(f"{rows:,} rows, losses of a gamma distribution (shape 0.5, scale 2)")
    timed("making random losses", lambda: deque(pieces(rows), maxlen=0))
    timed("the same, and writing them", lambda: write_table(path, about, pieces(rows)))
    holds = verdict("bytes a row", path.stat().st_size / rows, 4.0)
    before = anonymous_megabytes()
    timed("read all and check (verify)", lambda: verify_file(TableFile(path)))
    table = timed("open, making the memory map", lambda: LossTable.open(path))
    table = timed("open again", lambda: LossTable.open(path))
    timed("hold against the data", lambda: check_data(table, data))
    holds &= verdict("memory beyond the page cache, MB", anonymous_megabytes() - before, 200)
    return bool(holds & lookups(path, table, rows))


def pieces(rows: int) -> Iterator[Piece]:
    random = np.random.default_rng(0)
    for start in range(0, rows, PIECE):
        ids = np.arange(start, min(start + PIECE, rows))
        yield Piece(ids, {"loss": random.gamma(0.5, 2.0, len(ids)).astype(np.float32)})


def lookups(path: Path, table: LossTable, rows: int) -> bool:
    random = np.random.default_rng(1)
    assert isinstance(table._losses, Dense)
    resident = np.array(table._losses.losses)

    def fresh() -> np.ndarray:
        return random.integers(0, rows, LOOKUPS)

    ids = fresh()
    assert table({"id": torch.from_numpy(ids)}).tolist() == resident[ids].tolist()
    # Ids are drawn within both calls, and so is their cost; new ones each time, so that neither
    # finds them in a cache. What drawing costs is taken off again.
    drawing = min(seconds(fresh) for _ in range(20))
    ours = (
        min(seconds(lambda: table({"id": torch.from_numpy(fresh())})) for _ in range(50)) - drawing
    )
    theirs = min(seconds(lambda: resident[fresh()]) for _ in range(50)) - drawing
    print(
        f"{LOOKUPS:,} random losses: {ours * 1e3:.2f} ms, of an array in memory {theirs * 1e3:.2f}"
    )
    same = {"id": torch.from_numpy(ids)}
    repeated = ratio(lambda: table(same), lambda: resident[ids], rounds=50)
    print(f"the same ids again, over an array in memory: {repeated:.2g}")
    holds = verdict(f"{LOOKUPS:,} random losses, over an array in memory", ours / theirs, 5.0)
    for name, query in (("duckdb", duckdb_query), ("polars", polars_query)):
        try:
            spent = min(seconds(query(path, ids)) for _ in range(2))
        except ImportError:
            print(f"{name} is not installed")
        else:
            print(f"the same by {name} from the file: {spent:.2f} s, {spent / ours:,.0f} x ours")
    return holds


def duckdb_query(path: Path, ids: np.ndarray) -> Callable[[], Any]:
    import duckdb
    import pyarrow as pa

    wanted = pa.table({"id": ids})
    connection = duckdb.connect()
    connection.register("wanted", wanted)
    return lambda: connection.sql(f"select loss from wanted join '{path}' using (id)").fetchnumpy()


def polars_query(path: Path, ids: np.ndarray) -> Callable[[], Any]:
    import polars

    wanted = polars.LazyFrame({"id": ids})
    return lambda: wanted.join(polars.scan_parquet(path), on="id", how="left").collect()


def anonymous_megabytes() -> float:
    """Memory of this process that is no file's page."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1000


def timed(what: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    print(f"{what}: {time.perf_counter() - start:.2f} s")
    return result


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
