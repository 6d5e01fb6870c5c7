"""Tables: losses kept beside a data set, scored once and used by many runs.

write_table   the file: parquet with provenance, sorted by id (docs/formats.md)
LossTable     losses by id at run time, in the place of a model
check_table   does the table belong to this data and this task?
merge_tables  rows of several; join_tables: columns of several
subset        the best of them; datacomp: in DataComp's files
"""

from superbatch.tables.check import check_table
from superbatch.tables.file import Piece, TableFile, is_table, write_table
from superbatch.tables.fingerprint import fingerprint
from superbatch.tables.losses import LossTable
from superbatch.tables.merge import join_tables, merge_tables
from superbatch.tables.provenance import Provenance, ScoredBy


__all__ = [
    "LossTable",
    "Piece",
    "Provenance",
    "ScoredBy",
    "TableFile",
    "check_table",
    "fingerprint",
    "is_table",
    "join_tables",
    "merge_tables",
    "write_table",
]
