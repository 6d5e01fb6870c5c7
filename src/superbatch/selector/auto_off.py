"""Auto-off: stop scoring where the measured gain cannot pay."""

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from superbatch.distributed import gather_rows, world
from superbatch.errors import ConfigError


Reason = Literal["flat", "slow"]

SPENT = ("score", "learn", "turn")
"""What a step's seconds are spent on; the turn is all of it."""


@dataclass(frozen=True)
class AutoOff:
    """When to stop scoring, for good, looked at every ``window`` choices.

    - ``flat``: the kept rows score no better than chance would have it. A uniform draw of b of B
      has a kept gain of mean 0 and variance ``(B - b) / (b (B - 1))``; scoring stops where the mean
      over the window is below ``deviations`` standard deviations of such a mean.
    - ``slow``: a step's scoring and online learning take so long that it would not pay even if
      every dropped row were worthless, so that the learner needed 1 / rho of the updates: more
      than rho - 1 times the seconds of the rest of the step, medians over the window. Decided by
      the clock, so another run may decide otherwise; leave it out for runs that must repeat.
    """

    window: int = 200
    flat: bool = True
    slow: bool = True
    deviations: float = 3.0

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ConfigError(f"AutoOff looks at 2 choices or more; its window is {self.window}")


class Watch:
    """What the choices since the last look gained and cost."""

    def __init__(self, rule: AutoOff) -> None:
        self.rule = rule
        self._clear()

    def _clear(self) -> None:
        self._choices = 0
        self._gain = 0.0
        self._variance = 0.0
        self._rho = 0.0

    def note(self, gain: Float[Tensor, ""], *, chosen: int, of: int) -> None:
        """One choice of ``chosen`` of ``of`` rows had kept gain ``gain``."""
        self._choices += 1
        self._gain = self._gain + gain.nan_to_num(0.0).double()
        self._variance += (of - chosen) / (chosen * (of - 1))
        self._rho += of / chosen

    def look(self, seconds: Mapping[str, float]) -> tuple[Reason, str] | None:
        """Why to stop, in a word and in a sentence, if the window is full; for all ranks.

        ``seconds`` of a step: "score", "learn" and "turn", all of it.
        """
        if self._choices < self.rule.window:
            return None
        spent = torch.tensor([float(self._gain), *(seconds[what] for what in SPENT)])
        device = self._gain.device if isinstance(self._gain, Tensor) else "cpu"
        ours = gather_rows(spent[None].to(device)).double().mean(dim=0).tolist()
        gain, choices = ours[0] / self._choices, self._choices
        chance = math.sqrt(self._variance / world()[1]) / choices
        rho = self._rho / choices
        self._clear()
        if self.rule.flat and gain < self.rule.deviations * chance:
            return "flat", (
                f"over {choices} choices the kept rows scored {gain:.4f} standard deviations above "
                f"the mean and a uniform draw would have {chance:.4f} by chance: scores are too "
                "flat to choose by; a lower temperature would tell them apart"
            )
        choosing = ours[1] + ours[2]
        rest = max(0.0, ours[3] - choosing)
        if self.rule.slow and choosing > (rho - 1) * rest:
            return "slow", (
                f"scoring and online learning take {choosing:.3g} s a step and the rest of it "
                f"{rest:.3g} s: with {rho:.3g} rows scored for each kept that cannot pay, even if "
                "all that is dropped were worthless; take smaller scoring models or a table"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was noted since the last look."""
        return {
            "choices": self._choices,
            "gain": float(self._gain),
            "variance": self._variance,
            "rho": self._rho,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._choices, self._gain = state["choices"], state["gain"]
        self._variance, self._rho = state["variance"], state["rho"]


class Stopwatch:
    """Seconds of the last turns, by what they were spent on.

    On CUDA the device itself marks when it begins and ends, so that nothing waits for it.
    """

    def __init__(self, turns: int = 200) -> None:
        self._turns = turns
        self._spent: dict[str, deque[Any]] = {}
        self._began: float | None = None

    def turn(self) -> None:
        """A new turn begins, and the one before ends."""
        now = time.perf_counter()
        if self._began is not None:
            self._of("turn").append(now - self._began)
        self._began = now

    @contextmanager
    def __call__(self, what: str, device: torch.device | None) -> Iterator[None]:
        """The time within is spent on ``what``."""
        if device is None or device.type != "cuda":
            began = time.perf_counter()
            yield
            self._of(what).append(time.perf_counter() - began)
            return
        with torch.cuda.device(device):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            yield
            events[1].record()
        self._of(what).append(events)

    def median(self, what: str) -> float:
        """Seconds of one turn spent on ``what``; 0 where there was none."""
        spent = self._of(what)
        return statistics.median(map(_seconds, spent)) if spent else 0.0

    def _of(self, what: str) -> deque[Any]:
        return self._spent.setdefault(what, deque(maxlen=self._turns))


def _seconds(spent: Any) -> float:
    if isinstance(spent, float):
        return spent
    begin, end = spent
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1000
