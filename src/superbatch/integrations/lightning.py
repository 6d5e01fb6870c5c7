"""``lightning``: a callback by which it learns only from the chosen rows."""

from typing import Any

from superbatch.integrations.lightning_hooks import SelectionHooks
from superbatch.integrations.missing import missing


try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.core.hooks import DataHooks
except ImportError as error:
    raise missing("lightning", "lightning") from error


class SelectionCallback(SelectionHooks, Callback):
    """``Trainer(callbacks=[SelectionCallback(selector)])`` for ``lightning.pytorch.Trainer``."""

    @staticmethod
    def _overrides(owner: Any) -> bool:
        return type(owner).on_after_batch_transfer is not DataHooks.on_after_batch_transfer
