"""TensorBoard: the same numbers as ``metrics.jsonl``, for those who watch them there."""

from collections.abc import Callable
from pathlib import Path

from superbatch.errors import ConfigError
from superbatch.types import Metrics


Mirror = Callable[[int, Metrics], None]
"""Shows the numbers of a step somewhere else."""


def nowhere(step: int, numbers: Metrics) -> None:
    """No mirror."""


def tensorboard(folder: Path, *, after: int) -> Mirror:
    """A mirror into ``folder``; what an earlier attempt wrote after step ``after`` is hidden.

    Raises ``ConfigError`` where the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--record.tensorboard needs the tensorboard package; "
            "install superbatch[tensorboard], or leave the flag out"
        ) from error
    writer = SummaryWriter(str(folder), purge_step=after + 1)

    def show(step: int, numbers: Metrics) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return show
