"""Weights in memory that processes share, of which nobody ever reads half an update.

Two copies are written in turn, so that what is newest is not being written, and each has a count
that is odd while it is. Who has read a copy whose count was even before and the same after, has
read one update; who has not, reads again. Nobody waits for anybody, and a process that is killed
or stopped while it reads, or writes, holds nobody up.
"""

import threading
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from superbatch.actors.actor import Weights
from superbatch.types import Role


_COPIES = 2
_ALIGNED = 64
_lock = threading.Lock()


@final
class WeightBoard:
    """Room for ``weights``, published by the process that made it and read by any it is passed to.

    The memory has no name: it goes with the last process that has it. Tensors on a GPU stay there,
    shared through CUDA's handles. Whoever publishes or reads has tensors of the same names, shapes
    and types as the first ``weights``.
    """

    def __init__(self, step: int, weights: Weights, device: torch.device | str = "cpu") -> None:
        self._roles = tuple(weights)
        self._layout: list[tuple[Role, str, torch.Size, torch.dtype, int]] = []
        room = 0
        for role, tensors in weights.items():
            for name, tensor in tensors.items():
                self._layout.append((role, name, tensor.shape, tensor.dtype, room))
                room += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self._memory = _shared(torch.zeros(_COPIES, room, dtype=torch.uint8, device=device))
        # Of each copy how often its writing began or ended, and its step; then which is newest.
        self._words = _shared(torch.zeros(2 * _COPIES + 1, dtype=torch.int64, device=device))
        self._published = 0
        self.publish(step, weights)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Whose weights these are."""
        return self._roles

    def publish(self, step: int, weights: Weights) -> None:
        """Write ``weights``, those after ``step``. Nothing is read back: no GPU is waited for."""
        self._published += 1
        turn, copy = divmod(self._published, _COPIES)
        self._words[2 * copy] = 2 * turn + 1
        _in_order()
        with torch.no_grad():
            for role, name, place in self._places[copy]:
                place.copy_(weights[role][name])
        self._words[2 * copy + 1] = step
        _in_order()
        self._words[2 * copy] = 2 * turn + 2
        self._words[-1] = copy

    def read(self, into: Weights) -> int:
        """Write the newest weights into ``into``; the step after which they were."""
        while True:
            copy = int(self._words[-1])
            before = int(self._words[2 * copy])
            _in_order()
            with torch.no_grad():
                for role, name, place in self._places[copy]:
                    into[role][name].copy_(place)
            step = int(self._words[2 * copy + 1])
            _in_order()
            if before % 2 == 0 and int(self._words[2 * copy]) == before:
                return step

    @cached_property
    def _places(self) -> list[list[tuple[Role, str, Tensor]]]:
        """Where each tensor of each copy is: views of the memory."""
        return [
            [
                (role, name, _view(memory, shape, dtype, start))
                for role, name, shape, dtype, start in self._layout
            ]
            for memory in self._memory
        ]

    def __getstate__(self) -> dict[str, Any]:
        """The memory is passed on once, and whoever receives it makes the views."""
        return {name: value for name, value in vars(self).items() if name != "_places"}


def _view(memory: Tensor, shape: torch.Size, dtype: torch.dtype, start: int) -> Tensor:
    return memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _shared(tensor: Tensor) -> Tensor:
    return tensor.share_memory_()  # type: ignore[no-untyped-call, no-any-return]


def _in_order() -> None:
    """What this process wrote or read before comes before what follows, for other processes too.

    Taking a lock, any lock, is a memory barrier on every processor.
    """
    with _lock:
        pass
