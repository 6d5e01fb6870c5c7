"""Weights in memory that processes share, of which nobody ever reads half an update.

``Copies`` is the memory. On a ``WeightBoard`` two copies are written in turn, so that what is
newest is not being written, and each has a count that is odd while it is. Who has read a copy whose
count was even before and the same after, has read one update; who has not, reads again. On a
``Shelf`` each update has a place, and who writes is only asked for an update whose place is free.
Nobody waits for anybody, and a process that is killed or stopped while it reads, or writes, holds
nobody up.
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
class Copies:
    """Room for ``count`` copies of ``like``, shared by the process that made it with any it is
    passed to.

    The memory has no name: it goes with the last process that has it. Tensors on a GPU stay there,
    shared through CUDA's handles. Whoever writes or reads has tensors of the same names, shapes and
    types as ``like``.
    """

    def __init__(self, like: Weights, count: int, device: torch.device | str = "cpu") -> None:
        self._layout: list[tuple[Role, str, torch.Size, torch.dtype, int]] = []
        room = 0
        for role, tensors in like.items():
            for name, tensor in tensors.items():
                self._layout.append((role, name, tensor.shape, tensor.dtype, room))
                room += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self._memory = _shared(torch.zeros(count, room, dtype=torch.uint8, device=device))

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self._memory.device

    def __len__(self) -> int:
        return len(self._memory)

    @torch.no_grad()
    def write(self, copy: int, weights: Weights) -> None:
        """Have copy ``copy`` be ``weights``."""
        for role, name, place in self._places[copy]:
            place.copy_(weights[role][name])

    @torch.no_grad()
    def read(self, copy: int, into: Weights) -> None:
        """Write copy ``copy`` into ``into``."""
        for role, name, place in self._places[copy]:
            into[role][name].copy_(place)

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


@final
class WeightBoard:
    """The newest ``weights``, published by the process that made it and read by any it is passed
    to.
    """

    def __init__(self, step: int, weights: Weights, device: torch.device | str = "cpu") -> None:
        self._copies = Copies(weights, _COPIES, device)
        # Of each copy how often its writing began or ended, and its step; then which is newest.
        self._words = _shared(torch.zeros(2 * _COPIES + 1, dtype=torch.int64, device=device))
        self._published = 0
        self.publish(step, weights)

    def publish(self, step: int, weights: Weights) -> None:
        """Write ``weights``, those after ``step``. Nothing is read back: no GPU is waited for."""
        self._published += 1
        turn, copy = divmod(self._published, _COPIES)
        self._words[2 * copy] = 2 * turn + 1
        _in_order()
        self._copies.write(copy, weights)
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
            self._copies.read(copy, into)
            step = int(self._words[2 * copy + 1])
            _in_order()
            if before % 2 == 0 and int(self._words[2 * copy]) == before:
                return step


@final
class Shelf:
    """States of a model, one after each of its latest updates, each in a place of its own.

    Where there are ``places`` of them, that of update ``n`` is taken by update ``n + places``,
    which nobody may write as long as anybody could read ``n``.
    """

    def __init__(self, places: int, like: Weights, device: torch.device | str = "cpu") -> None:
        self._copies = Copies(like, places, device)

    def write(self, number: int, state: Weights) -> None:
        """Keep ``state``, that after update ``number``; it is there when this returns."""
        self._copies.write(number % len(self._copies), state)
        self._settle()

    def read(self, number: int, into: Weights) -> None:
        """Write the state after update ``number`` into ``into``; it is there when this returns."""
        self._copies.read(number % len(self._copies), into)
        self._settle()

    def _settle(self) -> None:
        # Processes take turns by messages, of which a GPU knows nothing.
        if self._copies.device.type == "cuda":
            torch.cuda.synchronize(self._copies.device)


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
