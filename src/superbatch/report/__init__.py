"""What runs cost and brought: run folders in, numbers, tables, figures and one page out.

Reads run folders only; never sees a model.
"""

from superbatch.report.read import Run, check_comparable, read_run, read_runs
from superbatch.report.speedup import Comparison, compare_runs, first_reach
from superbatch.report.table import comparison_table


__all__ = [
    "Comparison",
    "Run",
    "check_comparable",
    "compare_runs",
    "comparison_table",
    "first_reach",
    "read_run",
    "read_runs",
]
