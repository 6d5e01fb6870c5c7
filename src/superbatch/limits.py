"""Limits: how many super-batches arrive for each sub-batch that is drawn.

A bank asks its limit twice. May a sub-batch be drawn? If not, a super-batch must arrive first. May
a super-batch arrive, though a sub-batch could be drawn without it? Whoever brings super-batches
waits while the answer is no. Nobody may ever wait for both: ``docs/adr/0013`` says when that
cannot happen, and what is refused here because it could.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

from superbatch.errors import ConfigError


@dataclass(frozen=True)
class Tally:
    """What has come to a bank and what has been drawn from it, in all."""

    inserted: int = 0
    """Examples that arrived."""
    sampled: int = 0
    """Examples that were drawn, as often as they were."""
    arrived: int = 0
    """Super-batches that arrived since the last draw."""


@runtime_checkable
class Limit(Protocol):
    """When a bank may be drawn from, and when it may be added to."""

    def least(self, count: int) -> int:
        """How many examples a draw of ``count`` waits for, as long as arrivals make them more."""
        ...

    def allows(self, tally: Tally, count: int) -> bool:
        """Whether ``count`` may be drawn after what ``tally`` counts."""
        ...

    def takes(self, tally: Tally, held: int) -> bool:
        """Whether a super-batch may come to the ``held`` examples of a bank."""
        ...

    def check(self, *, capacity: int, max_times_sampled: int) -> None:
        """Raise ``ConfigError`` if no bank of that kind could keep this limit."""
        ...

    def needed_at(self, number: int, super_batch_size: int) -> int:
        """The first step before which super-batch ``number`` must arrive, both from 1.

        If all are whole, and the bank never has too few.
        """
        ...


@dataclass(frozen=True)
class Lockstep:
    """One super-batch for each sub-batch, however large they are.

    Before the first draw as many as make ``minimum`` examples.
    """

    minimum: int = 1

    def least(self, count: int) -> int:
        """One: a short super-batch gives what it has."""
        return 1

    def allows(self, tally: Tally, count: int) -> bool:
        """Once a super-batch has arrived, and the minimum in all."""
        return tally.arrived > 0 and tally.inserted >= self.minimum

    def takes(self, tally: Tally, held: int) -> bool:
        """No more than a draw needs."""
        return held == 0 or not self.allows(tally, 1)

    def check(self, *, capacity: int, max_times_sampled: int) -> None:
        """Refuse a minimum that there is no room for."""
        refuse_no_room(self.minimum, capacity)

    def needed_at(self, number: int, super_batch_size: int) -> int:
        """Its own step, but for those of the first fill."""
        at_first = -(-self.minimum // super_batch_size)
        return max(1, number - at_first + 1)


@dataclass(frozen=True)
class SamplesPerInsert:
    """Each example that arrives is drawn ``ratio`` times on average: 1 / rho is lockstep.

    Nothing is drawn before ``minimum`` examples have arrived, and at least a sub-batch. What of the
    minimum is more than one super-batch, or than a sub-batch asks for, is not made up for; apart
    from that ``owed = ratio * inserted - sampled`` stays within ``error_buffer`` of half of what a
    super-batch brings and a sub-batch takes: no draw may leave less and no arrival more, but that a
    bank with less than a sub-batch always takes more.

    ``error_buffer``, in examples drawn; None: that half itself, with which draws never run ahead.
    It is the least that cannot deadlock, and less is a ``ConfigError``.
    """

    ratio: float
    super_batch_size: int
    sub_batch_size: int
    minimum: int = 1
    error_buffer: float | None = None

    def __post_init__(self) -> None:
        if self._exact <= 0:
            raise ConfigError(
                f"samples_per_insert is {self.ratio:g} and nothing would ever be drawn; lockstep "
                f"is {self.sub_batch_size / self.super_batch_size:g}"
            )
        if self._buffer < self._middle:
            raise ConfigError(
                f"with an error buffer of {self.error_buffer:g} the bank can stand where neither a "
                f"sub-batch may be drawn ({self.sub_batch_size}) nor a super-batch may arrive "
                f"(samples_per_insert {self.ratio:g} x {self.super_batch_size}), a deadlock; give "
                f"at least half of their sum, {float(self._middle):g}"
            )

    @property
    def _exact(self) -> Fraction:
        """The ratio that the decimals stand for: a third of 48 is 16 and no less."""
        return Fraction(self.ratio).limit_denominator(1_000_000)

    @property
    def _middle(self) -> Fraction:
        """Of what may be owed."""
        return (self._exact * self.super_batch_size + self.sub_batch_size) / 2

    @property
    def _buffer(self) -> Fraction:
        return self._middle if self.error_buffer is None else Fraction(self.error_buffer)

    @property
    def _first(self) -> int:
        """Examples that must arrive before the first draw."""
        return max(self.minimum, self.sub_batch_size)

    def _owed(self, tally: Tally) -> Fraction:
        enough = max(self.sub_batch_size / self._exact, Fraction(self.super_batch_size))
        paid_for = max(self.minimum - enough, Fraction(0))
        return self._exact * (tally.inserted - paid_for) - tally.sampled

    def least(self, count: int) -> int:
        """All of them."""
        return count

    def allows(self, tally: Tally, count: int) -> bool:
        """Unless draws would be too far ahead."""
        filled = tally.inserted >= self._first
        return filled and self._owed(tally) - count >= self._middle - self._buffer

    def takes(self, tally: Tally, held: int) -> bool:
        """Unless arrivals would be too far ahead."""
        if held < self.sub_batch_size or tally.inserted < self._first:
            return True
        brings = self._exact * self.super_batch_size
        return self._owed(tally) + brings <= self._middle + self._buffer

    def check(self, *, capacity: int, max_times_sampled: int) -> None:
        """Refuse what there is no room for, and more draws than examples may have."""
        refuse_no_room(self._first, capacity)
        if self._exact > max_times_sampled:
            raise ConfigError(
                f"samples_per_insert is {self.ratio:g} and an example may be drawn "
                f"max_times_sampled ({max_times_sampled}) times: the bank would always run out "
                f"first; allow {-(-self._exact // 1)} times, or ask for fewer samples"
            )

    def needed_at(self, number: int, super_batch_size: int) -> int:
        """The step whose draw would leave too little owed without it, or the first."""
        before = (number - 1) * super_batch_size
        if before < self._first:
            return 1
        spare = self._owed(Tally(inserted=before)) - self._middle + self._buffer
        return max(1, int(spare // self.sub_batch_size) + 1)


def refuse_no_room(minimum: int, capacity: int) -> None:
    """Raise ``ConfigError`` where the bank would wait for more examples than it can hold."""
    if minimum > capacity:
        raise ConfigError(
            f"{minimum} examples must be in the memory bank before any is drawn and it holds "
            f"{capacity}: nothing would ever be drawn; give it more room, or a smaller minimum"
        )
