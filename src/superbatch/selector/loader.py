"""SelectingLoader: selection for loops that take a loader and that nobody may edit."""

from collections.abc import Iterator, Mapping
from typing import Any

from superbatch.errors import CheckpointError, ConfigError
from superbatch.selector.selector import Selector


class NoLength(ConfigError, TypeError):
    """A loader without a length was asked for it; a ``TypeError`` as Python has it."""


class SelectingLoader:
    """Iterates over ``loader``'s super-batches with only their kept rows.

    A super-batch is read and scored when its turn comes, none ahead. Unless ``learn`` is False the
    online model takes its step on the kept rows just before they are given out, which is the same
    as just after: nothing is scored in between. A short last super-batch gives a sub-batch that is
    as much shorter; ``drop_last=True`` of the loader leaves it out. With ``epochs`` fractions in
    schedules are of ``epochs * len(loader)`` steps.

    What trainers ask of a loader (``dataset``, ``sampler``, ``num_workers``, ...) is the wrapped
    loader's; ``batch_size`` is how many rows are given out of a full super-batch.
    """

    def __init__(
        self, loader: Any, selector: Selector, *, learn: bool = True, epochs: int | None = None
    ) -> None:
        if selector.plan.weighs:
            raise ConfigError(
                f"importance_exponent is {selector.plan.exponent} and a loader gives no weights to "
                "a loop that does not ask; use selector.pick in the loop, or exponent 0"
            )
        self.loader = loader
        self.selector = selector
        self.learn = learn
        self._given = 0
        self._skip = 0
        if epochs is not None:
            selector.expect(epochs * len(self))

    def __len__(self) -> int:
        """How many batches an epoch has. ``NoLength`` where the loader cannot say."""
        try:
            return len(self.loader)
        except TypeError:
            raise NoLength(
                f"{type(self.loader).__name__} has no length, and fractions of a schedule or a "
                "trainer that counts epochs need one; give Schedule(steps=...) in steps, or tell "
                "the trainer how many steps to take"
            ) from None

    def __iter__(self) -> Iterator[Any]:
        """The kept rows of each super-batch; after ``load_state_dict`` the rest of the epoch."""
        skip, self._skip = self._skip, 0
        self._given = 0
        for super_batch in self.loader:
            self._given += 1
            if self._given <= skip:
                continue
            kept = self.selector.pick(super_batch)
            if self.learn:
                self.selector.learn(kept)
            yield kept.batch
        self._given = 0

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked is the wrapped loader's."""
        if name == "loader":  # not made yet, as when it is copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    @property
    def batch_size(self) -> int | None:
        """How many rows of a full super-batch are given out next; none where that is unknown."""
        count = getattr(self.loader, "batch_size", None)
        return None if count is None else self.selector.kept_of(count)

    @property
    def super_batch_size(self) -> int | None:
        """The wrapped loader's ``batch_size``."""
        count: int | None = getattr(self.loader, "batch_size", None)
        return count

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader, or its sampler, which epoch begins, where either wants to know."""
        samplers = (getattr(self.loader, name, None) for name in ("sampler", "batch_sampler"))
        for holder in (self.loader, *samplers):
            tell = getattr(holder, "set_epoch", None)
            if tell is not None:
                tell(epoch)
                return

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: the selector's state, and the loader's where it keeps one.

        Of a loader without state, how many super-batches of this epoch were given.
        """
        own = getattr(self.loader, "state_dict", None)
        return {
            "selector": self.selector.state_dict(),
            "given": self._skip or self._given,
            "loader": own() if own else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the loader that wrote ``state`` stood.

        A loader without state is read again from the start of its epoch, so it must give the same
        order again; what was given is skipped without scoring it.
        """
        if "selector" not in state or "given" not in state:
            raise CheckpointError(
                f"this is not the state of a SelectingLoader: it has {', '.join(map(str, state))}; "
                "give what loader.state_dict() gave"
            )
        self.selector.load_state_dict(state["selector"])
        if state["loader"] is not None:
            self.loader.load_state_dict(state["loader"])
        else:
            self._skip = state["given"]
