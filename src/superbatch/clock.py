"""Clock: seconds by phase of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the seconds spent within ``with clock("phase"):``; phases do not nest.

    On CUDA a phase ends when the device has finished it, so that its seconds are its own.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds: dict[str, float] = {}
        self._device = torch.device(device)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time within as ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Seconds in all phases."""
        return sum(self.seconds.values())

    def state_dict(self) -> dict[str, float]:
        """Seconds by phase so far."""
        return dict(self.seconds)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Count on from ``state``."""
        self.seconds = dict(state)
