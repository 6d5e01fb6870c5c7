"""Auto-off: stop scoring where the measured gain cannot pay."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superbatch.distributed import mean_over_ranks, world
from superbatch.errors import ConfigError
from superbatch.selection import kept_gain
from superbatch.selector.stopwatch import SPENT


_LOG = logging.getLogger("superbatch.selector")

Reason = Literal["flat", "slow"]


@dataclass(frozen=True)
class AutoOff:
    """When to stop scoring, for good, looked at every ``window`` choices.

    - ``flat``: the kept rows score no better than chance would have it. A uniform draw of b of B
      has a kept gain of mean 0 and variance ``(B - b) / (b (B - 1))``; scoring stops where the mean
      over the window is below ``deviations`` standard deviations of such a mean.
    - ``slow``: a step's scoring and online learning take so long that it would not pay even if
      every dropped row were worthless, so that the learner needed 1 / rho of the updates: more
      than rho - 1 times the seconds of the rest of the step, medians over the window. Decided by
      the clock, so another run may decide otherwise; leave it out for runs that must repeat. Not
      judged over an interruption, before which the clock has forgotten what there was.
    """

    window: int = 200
    flat: bool = True
    slow: bool = True
    deviations: float = 3.0

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ConfigError(f"AutoOff looks at 2 choices or more; its window is {self.window}")


class Watch:
    """What the choices since the last look gained and cost; no rule: never looks."""

    def __init__(self, rule: AutoOff | None) -> None:
        self.rule = rule
        self.off: str | None = None
        """Why scoring has stopped, if it has."""
        self.reason: Reason | None = None
        """The same in a word."""
        self._choices = 0
        self._timed = 0
        """How many of the choices the clock has seen, which forgets with an interruption."""
        self._gain = torch.zeros(())
        self._variance = 0.0
        self._rho = 0.0

    def note(self, scores: Float[Tensor, " B"], index: Int[Tensor, " b"]) -> None:
        """``index`` was chosen by ``scores``."""
        if self.rule is None:
            return
        of, chosen = len(scores), len(index)
        self._choices += 1
        self._timed += 1
        self._gain = self._gain + kept_gain(scores, index).nan_to_num(0.0)
        self._variance += (of - chosen) / (chosen * (of - 1))
        self._rho += of / chosen

    def look(self, seconds: Callable[[str], float]) -> None:
        """Decide whether to stop, if the window is full; for all ranks.

        ``seconds`` of a step that are spent on each of `SPENT`.
        """
        if self.rule is None or self._choices < self.rule.window:
            return
        spent = torch.tensor([seconds(what) for what in SPENT], device=self._gain.device)
        ours = mean_over_ranks(torch.cat([self._gain[None], spent]))
        gain, score, learn, turn = ours.tolist()
        found = self._flat(gain / self._choices) or self._slow(score + learn, turn)
        if found is not None:
            self.reason, self.off = found
            if world()[0] == 0:
                _LOG.warning("scoring stops: %s", self.off)
        self._choices, self._timed, self._variance, self._rho = 0, 0, 0.0, 0.0
        self._gain = torch.zeros_like(self._gain)

    def _flat(self, gain: float) -> tuple[Reason, str] | None:
        assert self.rule is not None  # it is looking
        chance = math.sqrt(self._variance / world()[1]) / self._choices
        if not self.rule.flat or gain >= self.rule.deviations * chance:
            return None
        return "flat", (
            f"over {self._choices} choices the kept rows scored {gain:.4f} standard deviations "
            f"above the mean, and uniform draws are off by {chance:.4f}; the scores are too flat "
            "to choose by, and a lower temperature would tell them apart"
        )

    def _slow(self, choosing: float, turn: float) -> tuple[Reason, str] | None:
        assert self.rule is not None  # it is looking
        rho, rest = self._rho / self._choices, max(0.0, turn - choosing)
        seen = self._timed >= self.rule.window
        if not self.rule.slow or not seen or choosing <= (rho - 1) * rest:
            return None
        return "slow", (
            f"scoring and online learning take {choosing:.3g} s a step and the rest of it "
            f"{rest:.3g} s; with {rho:.3g} rows scored for each that is kept this cannot pay, even "
            "if all that is dropped were worthless; smaller scoring models or a table would"
        )

    def state_dict(self) -> dict[str, Any]:
        """What was noted since the last look, and what was decided."""
        return {
            "off": self.off,
            "reason": self.reason,
            "choices": self._choices,
            "gain": self._gain,
            "variance": self._variance,
            "rho": self._rho,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.off, self.reason = state["off"], state["reason"]
        self._choices, self._gain = state["choices"], state["gain"]
        self._timed = 0
        self._variance, self._rho = state["variance"], state["rho"]
