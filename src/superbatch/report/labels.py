"""Which runs belong together, and which is whose baseline."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from superbatch.errors import RunError
from superbatch.report.read import Run


def run_labels(runs: Sequence[Run]) -> Mapping[Run, str]:
    """A name for every run's line and column, the same for the seeds of one setting.

    The recipe; where that gives two runs of one seed the same name, the recipe with its horizon;
    where that does too, the folder without its seed; at last the folder itself.
    """
    ways: tuple[Callable[[Run], str], ...] = (
        lambda run: f"{run.recipe} ({run.horizon} steps)",
        lambda run: re.sub(r"[-_]?seed[-_]?\d+", "", run.folder.resolve().name) or run.recipe,
        lambda run: run.folder.resolve().name,
        lambda run: str(run.folder),
    )
    labels = {run: run.recipe for run in runs}
    for way in ways:
        times = Counter((labels[run], run.seed) for run in runs)
        unclear = {label for (label, _), count in times.items() if count > 1}
        labels = {run: way(run) if label in unclear else label for run, label in labels.items()}
    return labels


def baseline_runs(runs: Sequence[Run], baseline: str) -> list[Run]:
    """The runs that ``baseline`` names: a recipe, or one run folder.

    Raises:
        RunError: it names none of ``runs``.
    """
    of_recipe = [run for run in runs if run.recipe == baseline]
    folder = Path(baseline).resolve()
    found = of_recipe or [run for run in runs if run.folder.resolve() == folder]
    if not found:
        recipes = ", ".join(dict.fromkeys(run.recipe for run in runs))
        raise RunError(
            f"no run of the baseline {baseline!r} among the runs of {recipes}; "
            "add one, or name another with --baseline"
        )
    if len(found) > 1 and not any(baseline_of(run, found) for run in runs if run not in found):
        others = sorted({run.seed for run in runs if run not in found})
        if others:
            seeds = sorted({run.seed for run in found})
            raise RunError(
                f"no run has a baseline of its own seed: {baseline} has the seeds {seeds}, the "
                f"others have {others}; name one baseline run folder to compare all with it"
            )
    return found


def baseline_of(run: Run, bases: Sequence[Run]) -> Run | None:
    """The one of ``bases`` to hold ``run`` against, None where none has its seed.

    A baseline run is its own; a single one serves all; else the same seed, of the same horizon
    where there is one and of the longest where not.
    """
    if run in bases:
        return run
    if len(bases) == 1:
        return bases[0]
    same_seed = [base for base in bases if base.seed == run.seed]
    same_horizon = [base for base in same_seed if base.horizon == run.horizon]
    return max(same_horizon or same_seed, key=lambda base: base.horizon, default=None)
