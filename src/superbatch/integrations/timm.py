"""``timm``: a training task that learns only from the chosen rows of each batch."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from superbatch.errors import CheckpointError
from superbatch.integrations.missing import missing
from superbatch.selector import Selector


try:
    from timm.task import TrainingTask
except ImportError as error:
    raise missing("timm.task (timm 1.0.31 or later)", "timm") from error


class SelectingTask(nn.Module):
    """``task = SelectingTask(task, selector)``, after which the script goes on as it was.

    Called with a batch of inputs and targets it chooses rows, lets ``task`` compute its loss of
    them, and lets the online model learn from them; in eval mode it is ``task``. All else is
    ``task``'s too, but that its checkpoint state holds the selector's. Results gain ``target``, the
    targets of the rows that ``output`` is about.
    """

    def __init__(self, task: TrainingTask, selector: Selector) -> None:
        super().__init__()
        self.task = task
        self.selector = selector
        selector.to(task.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("task"), name)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What ``task`` says of the chosen rows."""
        if not self.training:
            return self.task(input, target)  # type: ignore[no-any-return]
        input, target = self.selector.select((input, target))
        result = self.task(input, target)
        self.selector.learn((input, target))
        return {**result, "target": target}

    def prepare_distributed(self, *args: Any, **kwargs: Any) -> "SelectingTask":
        """Prepare ``task``."""
        self.task.prepare_distributed(*args, **kwargs)
        return self

    def get_checkpoint_state(self, ema: bool = False, **kwargs: Any) -> dict[str, Any]:
        """What ``task`` keeps, and the selector's state beside its own."""
        state: dict[str, Any] = self.task.get_checkpoint_state(ema=ema, **kwargs)
        if not ema:
            own = state.get("task_state", {})
            state["task_state"] = {**own, "selector": self.selector.state_dict()}
        return state

    def load_checkpoint_state(
        self,
        state_dict: dict[str, Any],
        task_state: Mapping[str, Any] | None = None,
        ema: bool = False,
        strict: bool = True,
    ) -> None:
        """Continue where the task and the selector that wrote the state stood."""
        own = dict(task_state or {})
        chosen = own.pop("selector", None)
        if not ema:
            if chosen is None:
                raise CheckpointError(
                    "the checkpoint holds no state of a selector: it is of a run without one; "
                    "resume a checkpoint of a SelectingTask, or load its weights before training"
                )
            self.selector.load_state_dict(chosen)
        self.task.load_checkpoint_state(state_dict, own or None, ema=ema, strict=strict)
