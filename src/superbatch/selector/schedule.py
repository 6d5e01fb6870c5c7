"""Schedules as values: when scores choose, and settings that change with time."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from superbatch.errors import ConfigError


Time = int | float
"""A whole number of steps, or a fraction of all steps: 1 is one step, 1.0 is the end."""

Rest = Literal["uniform", "all"]
"""What is kept where scores do not choose: a uniform sub-batch, or the whole super-batch."""


@dataclass(frozen=True)
class Ramp:
    """From ``first`` to ``last``, in a straight line over the time from ``begin`` to ``end``."""

    first: float | int
    last: float | int
    begin: Time = 0
    end: Time = 1.0

    def __post_init__(self) -> None:
        check_order("Ramp", "begin", self.begin, self.end, None)

    def at(self, step: int, steps: int | None) -> float:
        """The value at ``step``, from 0, of ``steps``."""
        begin, end = moment(self.begin, steps), moment(self.end, steps)
        done = 1.0 if step >= end else max(0.0, (step - begin) / (end - begin))
        return float(self.first + (self.last - self.first) * done)


Setting = float | int | Ramp
"""A number, or one that changes with time."""


def value_at(setting: Setting, step: int, steps: int | None) -> float:
    """What ``setting`` is at ``step``, from 0, of ``steps``."""
    return setting.at(step, steps) if isinstance(setting, Ramp) else float(setting)


def ends(setting: Setting) -> tuple[float, ...]:
    """What ``setting`` begins and ends with."""
    found = (setting.first, setting.last) if isinstance(setting, Ramp) else (setting,)
    return tuple(map(float, found))


@dataclass(frozen=True)
class Schedule:
    """Scores choose from ``start`` on and until ``end``; the rest of the time, what is said here.

    A uniform sub-batch has the size that a chosen one would have, so that steps cost the learner
    the same. ``steps`` is how many super-batches there will be; only fractions need it.
    """

    start: Time = 0
    end: Time | None = None
    before: Rest = "uniform"
    after: Rest = "uniform"
    steps: int | None = None

    def __post_init__(self) -> None:
        check_known("Schedule.before", self.before, Rest)
        check_known("Schedule.after", self.after, Rest)
        check_order("Schedule", "start", self.start, self.end, self.steps)

    def rest(self, step: int) -> Rest | None:
        """What stands in for the choice at ``step``, from 0; none while scores choose."""
        if step < moment(self.start, self.steps):
            return self.before
        return self.after if self.is_over(step) else None

    def is_over(self, step: int) -> bool:
        """Whether scores will never choose again, from ``step`` on."""
        return self.end is not None and step >= moment(self.end, self.steps)


def check_known(name: str, value: str | None, known: Any) -> None:
    """Refuse a ``value`` of ``name`` that is not one of the words of the type ``known``."""
    if value not in get_args(known):
        words = " or ".join(map(repr, get_args(known)))
        raise ConfigError(f"{name} may be {words}; it is {value!r}")


def check_order(what: str, first: str, begin: Time, end: Time | None, steps: int | None) -> None:
    """Refuse a time that ends before it begins; of a step and a fraction ``steps`` tells."""
    if end is None or (type(begin) is not type(end) and steps is None):
        return
    alike = type(begin) is type(end)
    if (begin > end) if alike else (moment(begin, steps) > moment(end, steps)):
        raise ConfigError(
            f"{what}({first}={begin}, end={end}) ends before it begins"
            + ("" if alike else f", of {steps} steps")
            + f"; give an end after {begin}, or exchange them"
        )


def moment(time: Time, steps: int | None) -> float:
    """``time`` in steps, of ``steps``. ``ConfigError`` where a fraction has nothing to be of."""
    if isinstance(time, int):
        return float(time)
    if not 0 <= time <= 1:
        raise ConfigError(
            f"a time is a whole number of steps or a fraction from 0.0 to 1.0; it is {time}"
        )
    if steps is None:
        raise ConfigError(
            f"the schedule says {time:g} of all steps and nobody said how many there are; give "
            "Schedule(steps=...), or SelectingLoader(..., epochs=...) of a loader with a length"
        )
    return time * steps


@dataclass(frozen=True)
class Turn:
    """The settings of one step. ``rest`` stands in for the choice; none: scores choose."""

    filter_ratio: float
    temperature: float
    exponent: float
    rest: Rest | None


@dataclass(frozen=True)
class Plan:
    """The settings of every step. ``ConfigError`` where one is, or comes, out of its range."""

    filter_ratio: Setting
    temperature: Setting
    exponent: Setting
    schedule: Schedule

    def __post_init__(self) -> None:
        for ratio in self.ratios():
            if not 0 <= ratio < 1:
                raise ConfigError(
                    "filter_ratio is the share of a super-batch that is dropped, 0 or more and "
                    f"below 1, where nothing would be kept; it is {ratio:g}"
                )
        for temperature in ends(self.temperature):
            if not temperature >= 0 or (temperature == 0 and self.weighs):
                raise ConfigError(
                    "temperature must be 0 (highest scores) or more, and above 0 for importance "
                    f"weights; it is {temperature:g} and importance_exponent {self.exponent}"
                )

    def at(self, step: int) -> Turn:
        """The settings of ``step``, from 0."""
        steps = self.schedule.steps
        return Turn(
            value_at(self.filter_ratio, step, steps),
            value_at(self.temperature, step, steps),
            value_at(self.exponent, step, steps),
            self.schedule.rest(step),
        )

    @property
    def weighs(self) -> bool:
        """Whether kept rows have importance weights: the exponent is not 0 throughout."""
        return any(ends(self.exponent))

    def ratios(self) -> tuple[float, ...]:
        """The filter ratios that there will be, or the first and last of them."""
        return ends(self.filter_ratio)

    def keeps_all(self) -> bool:
        """Whether nothing is ever dropped."""
        return not isinstance(self.filter_ratio, Ramp) and self.filter_ratio == 0

    def chooses_by_score_after(self, step: int) -> bool:
        """Whether scores may choose at ``step`` or later."""
        return not self.keeps_all() and not self.schedule.is_over(step)
