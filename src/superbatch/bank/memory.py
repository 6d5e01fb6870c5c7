"""The memory bank that draws each example for itself, by its score."""

from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.bank.draw import Draw
from superbatch.bank.lots import Lots, runs
from superbatch.bank.rows import Rows, places
from superbatch.errors import CheckpointError, ConfigError
from superbatch.limits import Limit, Lockstep, Tally
from superbatch.selection import importance_weights, sample_indices, sample_weighted
from superbatch.types import Batch, size, small_fields


ScoreAgain = Callable[[Batch], Float[Tensor, " n"]]
"""Scores of examples that the bank holds, with the weights of now."""

Removal = Literal["oldest", "lowest"]

MOST_IN_VAIN = 1000
"""Super-batches in a row that may arrive too old to be drawn from before it is an error."""


@final
class MemoryBank:
    """At most ``capacity`` scored examples.

    Draws are without replacement from ``softmax(scores / temperature)`` over all that may still be
    drawn; that is also the length. An example leaves

    - when it was drawn ``max_times_sampled`` times;
    - to make room for others: the oldest first, or by ``removal`` those with the lowest scores,
      of what was there before;
    - when ``super_batches`` others have arrived after its own, however short those came out; None:
      whenever;
    - when its score is more than ``max_staleness`` learner steps old; None: never. With
      ``score_again`` it stays, and gets a new score.

    ``limit`` says how many super-batches arrive for each draw. With ``keep_examples`` False only
    fields of one number an example are kept, and given: ids, draws, labels; ``device`` is where
    they are held when they come from a checkpoint. With an ``importance_exponent`` over 0 what is
    drawn has a field ``"weight"``: see ``importance_weights``.
    """

    def __init__(
        self,
        capacity: int,
        *,
        generator: Generator,
        super_batches: int | None = None,
        temperature: float = 1.0,
        max_times_sampled: int = 1,
        removal: Removal = "oldest",
        limit: Limit | None = None,
        max_staleness: int | None = None,
        score_again: ScoreAgain | None = None,
        keep_examples: bool = True,
        importance_exponent: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        most = capacity if super_batches is None else super_batches
        if min(capacity, most, max_times_sampled) < 1:
            raise ConfigError(
                "a memory bank needs capacity, super_batches and max_times_sampled of at least 1; "
                f"they are {capacity}, {super_batches} and {max_times_sampled}"
            )
        self.limit = limit or Lockstep()
        self.limit.check(capacity=capacity, max_times_sampled=max_times_sampled)
        self.capacity = capacity
        self.super_batches = super_batches
        self.temperature = temperature
        self.max_times_sampled = max_times_sampled
        self.removal = removal
        self.max_staleness = max_staleness
        self.score_again = score_again
        self.importance_exponent = importance_exponent
        self.device = device
        self.generator = generator
        self._rows = Rows(capacity)
        self._lots = Lots() if keep_examples else None
        self._tally = Tally()
        self._arrivals = 0
        self._before = 0  # length before the last arrival

    def __len__(self) -> int:
        return len(self._rows)

    def expire(self, step: int) -> None:
        """Examples whose scores are too old for update ``step`` leave, if they are not renewed.

        A score made with the weights of step ``w`` is ``step - 1 - w`` steps old then.
        """
        if self.score_again is None:
            self._remove(self._stale(step))

    def renew(self, step: int) -> int:
        """Examples whose scores are too old for update ``step`` are scored again: how many."""
        if self.score_again is None or len(rows := self._stale(step)) == 0:
            return 0
        self._rows["scores"][rows] = self.score_again(self._examples(rows)).float()
        self._rows["weights_step"][rows] = step - 1
        return len(rows)

    def wants(self, count: int) -> bool:
        """Whether a super-batch must arrive before ``count`` examples are drawn.

        Not for want of examples if the last arrival did not make them more. Raises ``ConfigError``
        if there is still nothing to draw after a thousand.
        """
        if len(self) == 0:
            self._refuse_waiting_in_vain()
            return True
        grew = self._tally.arrived == 0 or len(self) > self._before
        lacks = len(self) < self.limit.least(count) and grew
        return lacks or not self.limit.allows(self._tally, count)

    def accepts(self) -> bool:
        """Whether one more may arrive, if it is there already."""
        return self.limit.takes(self._tally, len(self))

    def add(self, examples: Batch, scores: Float[Tensor, " n"], weights_step: int = 0) -> None:
        """Take in scored examples, made with the weights of step ``weights_step``.

        Others make room. More examples than the capacity are a ``ConfigError``.
        """
        count = size(examples)
        if count > self.capacity:
            raise ConfigError(
                f"{count} examples do not fit a memory bank of {self.capacity}; "
                "it must hold at least one super-batch"
            )
        self._before = len(self)
        self._make_room(count)
        self._arrivals += 1
        self._append(
            examples, scores, weights_step=weights_step, times_sampled=0, arrival=self._arrivals
        )
        if self._lots is not None:
            self._lots.add(self._arrivals, examples)
            self._tidy(self._lots)
        tally = self._tally
        self._tally = replace(tally, inserted=tally.inserted + count, arrived=tally.arrived + 1)

    def sample(self, count: int) -> Draw:
        """Draw ``count`` examples; errors are those of ``sample_indices``."""
        scores = self._rows.values("scores") if len(self) else torch.empty(0)
        index, more = self._drawn(scores, count)
        rows = self._rows.at(index.cpu())
        weights_step = self._rows["weights_step"][rows]
        examples = {**self._examples(rows), **more}
        times = self._rows["times_sampled"]
        times[rows] += 1
        self._remove(rows[places(times[rows] >= self.max_times_sampled)])
        self._tally = replace(self._tally, sampled=self._tally.sampled + count, arrived=0)
        return Draw(examples, index, scores, weights_step)

    def _drawn(self, scores: Float[Tensor, " n"], count: int) -> tuple[Int[Tensor, " b"], Batch]:
        """Which are drawn, and the fields that say more of them."""
        how: dict[str, Any] = {"temperature": self.temperature, "generator": self.generator}
        if self.importance_exponent == 0:
            return sample_indices(scores, count, **how), {}
        index, log_inclusion = sample_weighted(scores, count, **how)
        could = int(torch.isfinite(scores).sum())
        weight = importance_weights(log_inclusion, could, exponent=self.importance_exponent)
        return index, {"weight": weight}

    def _stale(self, step: int) -> Int[Tensor, " m"]:
        if self.max_staleness is None or len(self) == 0:
            return torch.empty(0, dtype=torch.int64)
        return self._rows.below("weights_step", step - 1 - self.max_staleness)

    def _append(
        self, examples: Batch, scores: Float[Tensor, " n"], **columns: int | Int[Tensor, " n"]
    ) -> None:
        held = {"draw": examples.get("draw", examples["id"])}
        if self._lots is None:
            held |= small_fields(examples)
        self._rows.append(
            len(scores),
            scores=scores.float(),
            place=torch.arange(len(scores)),
            **{FIELD + name: field for name, field in held.items()},
            **columns,
        )

    def _make_room(self, count: int) -> None:
        if len(self) and self.super_batches is not None:
            self._remove(self._rows.up_to("arrival", self._arrivals + 1 - self.super_batches))
        over = len(self) + count - self.capacity
        if over <= 0:
            return
        rows = self._rows.oldest(over)
        if self.removal == "lowest":
            # A score that is not finite is never drawn: it is the first to go.
            scores = self._rows.values("scores").nan_to_num(*[-torch.inf] * 3)
            lowest = torch.topk(scores, over, largest=False, sorted=False).indices
            rows = self._rows.at(lowest.sort().values.cpu())
        self._remove(rows)

    def _remove(self, rows: Int[Tensor, " m"]) -> None:
        """``rows``, ascending, may not be drawn any more."""
        if self._lots is not None and len(rows):
            self._lots.forget(self._rows["arrival"][rows])
        self._rows.kill(rows)

    def _tidy(self, lots: Lots) -> None:
        wasteful = lots.wasteful()
        if wasteful:
            rows = self._rows.alive()
            arrivals = self._rows["arrival"][rows]
        for arrival in wasteful:
            left = rows[places(arrivals == arrival)]
            lots.shrink(arrival, self._rows["place"][left])
            self._rows["place"][left] = torch.arange(len(left))

    def _examples(self, rows: Int[Tensor, " m"]) -> Batch:
        """Of ``rows``, ascending: all that is kept."""
        if self._lots is not None:
            return self._lots.take(self._rows["arrival"][rows], self._rows["place"][rows])
        columns = {name: self._rows[FIELD + name] for name in self._fields()}
        return {name: column[rows.to(column.device)] for name, column in columns.items()}

    def _fields(self) -> list[str]:
        """What stands in columns of what arrived."""
        return [name.removeprefix(FIELD) for name in self._rows.names() if name.startswith(FIELD)]

    def _refuse_waiting_in_vain(self) -> None:
        if self._tally.arrived >= MOST_IN_VAIN:
            raise ConfigError(
                f"{self._tally.arrived} super-batches arrived since the last draw and the scores of"
                f" all were more than max_staleness {self.max_staleness} steps old; whoever scores "
                "gets no newer weights: allow more steps, or send weights more often"
            )

    def state_dict(self) -> dict[str, object]:
        """What is held, by its draws in the stream, and the state of the generator.

        Pixels are not kept: a draw is enough to read them again.
        """
        names = [*HELD, *(FIELD + name for name in self._fields())] if len(self) else []
        state: dict[str, object] = {name: self._rows.values(name) for name in names}
        if names:  # super-batches after its own
            state["arrived_since"] = self._arrivals - self._rows.values("arrival")
        return state | {
            "tally": torch.tensor(astuple(self._tally)),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]
    ) -> None:
        """Hold what the bank that wrote ``state`` held; ``read`` gives the examples of draws.

        It is not asked where examples are not kept. Scores are where the examples are. Raises
        ``CheckpointError`` for what an earlier version wrote.
        """
        if "tally" not in state:
            raise CheckpointError(
                "the checkpoint's memory bank is of an earlier version, which did not count what "
                "arrived; go on with that version, or start a new run"
            )
        self._rows.clear()
        self._lots = None if self._lots is None else Lots()
        self._arrivals = 0
        self._tally = Tally(*state["tally"].tolist())
        self.generator.set_state(state["generator"].cpu())
        if "arrived_since" in state:
            self._hold(state, read)

    def _hold(self, state: Mapping[str, Any], read: Callable[[Int[Tensor, " n"]], Batch]) -> None:
        start = 0
        for arrival, count in zip(*runs(-state["arrived_since"]), strict=True):
            part = {
                name: column[start : start + count]
                for name, column in state.items()
                if name not in ("tally", "generator", "arrived_since")
            }
            start += count
            fields = {name: part.pop(name) for name in list(part) if name.startswith(FIELD)}
            examples: Batch = {
                name.removeprefix(FIELD): field.to(self.device) for name, field in fields.items()
            }
            if self._lots is not None:
                examples = read(fields[FIELD + "draw"])
                self._lots.add(arrival, examples)
            scores = part.pop("scores").to(examples["id"].device)
            self._append(examples, scores, arrival=arrival, **part)


FIELD = "example/"
"""What begins the name of a column that holds a field of examples."""

HELD = ("scores", "weights_step", "times_sampled")
"""Columns that a checkpoint needs besides."""
