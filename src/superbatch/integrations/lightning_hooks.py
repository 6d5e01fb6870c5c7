"""What both of Lightning's packages call: the hooks that select, learn, log and keep state.

``lightning`` and ``pytorch_lightning`` are the same code under two names, and neither accepts a
callback made for the other; ``SelectionCallback`` of either module here is these hooks as one.
"""

from collections.abc import Mapping
from typing import Any

from superbatch.errors import ConfigError
from superbatch.selector import Selector


_HOOK = "on_after_batch_transfer"


class SelectionHooks:
    """Selects just before the module's ``training_step``, and lets the online model learn after.

    The rows are chosen at the end of ``on_after_batch_transfer``, the data hook that a module or a
    data module may define itself: batches are on the device, augmented there if at all, and every
    later counter sees only the kept rows. Validation, test and prediction see whole batches.
    """

    def __init__(self, selector: Selector) -> None:
        super().__init__()
        self.selector = selector
        self._owner: Any = None
        self._selected = False

    @staticmethod
    def _overrides(owner: Any) -> bool:
        """Whether the class of a module or data module defines the data hook itself."""
        raise NotImplementedError  # each of Lightning's two packages has base classes of its own

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stand in the data hook, on the device: before any state is loaded."""
        self._leave()
        if stage != "fit":
            return
        self.selector.to(trainer.strategy.root_device)
        self._owner = self._asked(pl_module, getattr(trainer, "datamodule", None))
        own = getattr(self._owner, _HOOK)

        def on_after_batch_transfer(batch: Any, dataloader_idx: int) -> Any:
            batch = own(batch, dataloader_idx)
            if not trainer.training:
                return batch
            self._selected = True
            return self.selector.select(batch)

        setattr(self._owner, _HOOK, on_after_batch_transfer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The online model learns from the rows that the module has learned from."""
        if not self._selected:
            raise ConfigError(
                "no batch passed on_after_batch_transfer before this step, so nothing was "
                "selected: a training_step that takes dataloader_iter fetches batches by itself; "
                "let it take the batch, or call selector.select in it"
            )
        self._selected = False
        self.selector.learn(batch)
        every = trainer.log_every_n_steps  # reading the numbers waits for the device
        if every and trainer.global_step % every == 0:
            numbers = {f"selection/{name}": x for name, x in self.selector.metrics.items()}
            pl_module.log_dict(numbers, on_step=True, on_epoch=False)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the data hook as it was."""
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the data hook as it was."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """The selector's, for the trainer's checkpoint."""
        return self.selector.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue the selection of the run that wrote ``state_dict``."""
        self.selector.load_state_dict(state_dict)

    def _asked(self, module: Any, data_module: Any) -> Any:
        """Whom the trainer asks for the data hook, once it is defined on it."""
        if data_module is None:
            return module
        only_module = self._overrides(module) and not self._overrides(data_module)
        return module if only_module else data_module

    def _leave(self) -> None:
        if self._owner is not None:
            delattr(self._owner, _HOOK)
            self._owner = None
