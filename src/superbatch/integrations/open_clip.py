"""``open_clip``: its training data with only the chosen pairs of each batch."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from superbatch.errors import ConfigError
from superbatch.selector import Selector


def selecting(
    data: Mapping[str, Any], selector: Selector, device: torch.device | str
) -> dict[str, Any]:
    """``data`` of ``open_clip_train``, for ``train_one_epoch``, its training pairs chosen.

    The online model learns from what the loop learns from. ``device`` is ``args.device``.
    Raises ``ConfigError`` where there is no training data.
    """
    if "train" not in data:
        raise ConfigError(
            f"there is no training data to select from: data has {sorted(data)}; give train data"
        )
    selector.to(device)
    info = copy.copy(data["train"])
    info.dataloader = _ChosenPairs(info.dataloader, selector, device)
    return {**data, "train": info}


class _ChosenPairs:
    """A dataloader as ``train_one_epoch`` uses it."""

    def __init__(self, loader: Any, selector: Selector, device: torch.device | str) -> None:
        self._loader = loader
        self._selector = selector
        self._device = device
        self.num_batches: int = loader.num_batches

    @property
    def num_samples(self) -> int:
        """Pairs that an epoch learns from, by what was kept so far: the loop's progress."""
        seen, kept = self._selector.seen, self._selector.kept
        found: int = self._loader.num_samples
        return round(found * kept / seen) if seen else found

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self._loader:
            pairs = tuple(field.to(self._device, non_blocking=True) for field in batch)
            chosen = self._selector.select(pairs)
            self._selector.learn(chosen)  # the loop comes back for more, but not after its last
            yield chosen
