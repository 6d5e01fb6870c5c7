"""Training on a list of examples, such as the best part by a table of losses."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from superbatch.config import Data
from superbatch.errors import DataError
from superbatch.sources.stream import Readable
from superbatch.tables.check import check_list
from superbatch.tables.named import read_names


def only_listed(
    data: Data, examples: Readable, rows: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " m"]:
    """Those of ``rows`` that ``--data.subset`` lists, or all of them without one.

    Raises ``DataError`` for a list of uids, of ids that the data lacks, or of none of ``rows``.
    """
    if data.subset is None:
        return rows
    listed = read_names(Path(data.subset))
    if listed.dtype != np.int64:
        raise DataError(
            f"--data.subset {data.subset} lists uids and {data.path} has ids; "
            "superbatch subset writes ids to .txt and .parquet"
        )
    check_list(Path(data.subset), examples)
    unknown = listed[~np.isin(listed, examples.ids)]
    if len(unknown):
        raise DataError(
            f"{len(unknown)} of the {len(listed)} ids in {data.subset} are not in {data.path}, "
            f"such as {unknown[0]}; make the list from a table of this data"
        )
    kept: Int64[np.ndarray, " m"] = rows[np.isin(examples.ids[rows], listed)]
    if len(kept) == 0:
        raise DataError(
            f"not one of the {len(listed)} ids in {data.subset} is in the part of {data.path} "
            "that is trained on; make the list from a table of all of it"
        )
    return kept
