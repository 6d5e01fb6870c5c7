"""``pytorch_lightning``: a callback by which it learns only from the chosen rows."""

from typing import Any

from superbatch.integrations.lightning_hooks import SelectionHooks
from superbatch.integrations.missing import missing


try:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.core.hooks import DataHooks
except ImportError as error:
    raise missing("pytorch-lightning", "lightning") from error


class SelectionCallback(SelectionHooks, Callback):
    """``Trainer(callbacks=[SelectionCallback(selector)])`` for ``pytorch_lightning.Trainer``."""

    @staticmethod
    def _overrides(owner: Any) -> bool:
        return type(owner).on_after_batch_transfer is not DataHooks.on_after_batch_transfer
