"""The memory bank against a list of dictionaries that does the same, whatever is done to both."""

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from superbatch.bank import Lockstep, MemoryBank, SamplesPerInsert


B, b = 4, 2
"""What the limits believe the sizes to be; those that come differ."""


def examples(draws):
    draw = torch.tensor(draws, dtype=torch.int64)
    return {"id": 1000 + draw, "draw": draw, "label": -draw, "image": 10.0 * draw[:, None]}


def second_score(draw, now):
    """Of an example that is scored again."""
    return -float(draw) - 0.001 * now


class Machine(RuleBasedStateMachine):
    """``rows`` is the model: dictionaries in the order of arrival."""

    @initialize(
        capacity=st.integers(B, 12),
        super_batches=st.none() | st.integers(1, 4),
        temperature=st.sampled_from([0.0, 1.0]),
        uses=st.integers(1, 3),
        removal=st.sampled_from(["oldest", "lowest"]),
        ratio=st.none() | st.sampled_from([0.25, 0.5, 1.0]),
        minimum=st.integers(1, 3 * B),
        staleness=st.none() | st.integers(0, 3),
        again=st.booleans(),
        keep=st.booleans(),
    )
    def begin(self, **chosen):
        chosen["minimum"] = min(chosen["minimum"], chosen["capacity"])
        self.chosen = chosen
        self.rows, self.inserted, self.sampled, self.arrived = [], 0, 0, 0
        self.arrivals, self.now, self.next_draw, self.before = 0, 1, 0, 0
        self.calls = 0
        self.bank = self.new_bank(seed=0)

    def new_bank(self, seed):
        c = self.chosen
        limit = Lockstep(minimum=c["minimum"])
        if c["ratio"] is not None:
            limit = SamplesPerInsert(
                c["ratio"], super_batch_size=B, sub_batch_size=b, minimum=c["minimum"]
            )
        return MemoryBank(
            c["capacity"],
            generator=torch.Generator().manual_seed(seed),
            super_batches=c["super_batches"],
            temperature=c["temperature"],
            max_times_sampled=c["uses"],
            removal=c["removal"],
            limit=limit,
            max_staleness=c["staleness"],
            score_again=self.score_again if c["again"] else None,
            keep_examples=c["keep"],
        )

    def score_again(self, batch):
        self.calls += 1
        self.holds_pixels(batch)
        return torch.tensor([second_score(draw, self.now) for draw in batch["draw"].tolist()])

    def holds_pixels(self, batch):
        draw = batch["draw"]
        assert batch["id"].tolist() == (1000 + draw).tolist()
        assert batch["label"].tolist() == (-draw).tolist()
        pixels = {"image"} if self.chosen["keep"] else set()
        assert batch.keys() == {"id", "draw", "label"} | pixels
        if self.chosen["keep"]:
            assert batch["image"].squeeze(1).tolist() == (10.0 * draw).tolist()

    @rule(
        order=st.permutations(range(B)),
        count=st.integers(1, B),
        age=st.integers(0, 4),
        broken=st.booleans(),
    )
    def add(self, order, count, age, broken):
        c = self.chosen
        draws = list(range(self.next_draw, self.next_draw + count))
        # No two scores are equal: which of two equals leaves is nobody's business.
        scores = [place + 0.01 * draw for place, draw in zip(order, draws, strict=False)]
        if broken and c["removal"] == "oldest":
            scores[0] = math.nan
        made = max(0, self.now - 1 - age)
        self.bank.add(examples(draws), torch.tensor(scores), made)

        self.next_draw += count
        self.before = len(self.rows)
        self.arrivals += 1
        if c["super_batches"] is not None:
            first = self.arrivals - c["super_batches"] + 1
            self.rows = [row for row in self.rows if row["arrival"] >= first]
        over = len(self.rows) + count - c["capacity"]
        if over > 0:
            doomed = self.rows
            if c["removal"] == "lowest":
                doomed = sorted(self.rows, key=lambda row: row["score"])
            gone = {row["draw"] for row in doomed[:over]}
            self.rows = [row for row in self.rows if row["draw"] not in gone]
        for draw, score in zip(draws, scores, strict=True):
            row = {"draw": draw, "score": score, "made": made, "uses": 0, "arrival": self.arrivals}
            self.rows.append(row)
        self.inserted += count
        self.arrived += 1

    @rule(steps=st.integers(0, 3))
    def expire_and_renew(self, steps):
        self.now += steps
        self.bank.expire(self.now)
        bound = self.chosen["staleness"]
        old = [row for row in self.rows if bound is not None and self.now - 1 - row["made"] > bound]
        if not self.chosen["again"]:
            self.rows = [row for row in self.rows if row not in old]
            assert self.bank.renew(self.now) == 0
            return
        assert len(self.bank) == len(self.rows)
        assert self.bank.renew(self.now) == len(old)
        for row in old:
            row |= {"score": second_score(row["draw"], self.now), "made": self.now - 1}

    @precondition(lambda self: any(math.isfinite(row["score"]) for row in self.rows))
    @rule(count=st.integers(1, 2 * b))
    def sample(self, count):
        finite = [row for row in self.rows if math.isfinite(row["score"])]
        count = min(count, len(finite))
        held = [row["score"] for row in self.rows]
        draw = self.bank.sample(count)
        torch.testing.assert_close(draw.scores, torch.tensor(held), rtol=0, atol=0, equal_nan=True)
        index = draw.index.tolist()
        assert index == sorted(set(index))
        assert len(index) == count
        given = [self.rows[place] for place in index]
        if self.chosen["temperature"] == 0:
            best = sorted(finite, key=lambda row: -row["score"])[:count]
            assert given == sorted(best, key=lambda row: row["draw"])
        assert draw.examples["draw"].tolist() == [row["draw"] for row in given]
        assert draw.weights_step.tolist() == [row["made"] for row in given]
        self.holds_pixels(draw.examples)
        for row in given:
            assert math.isfinite(row["score"])
            row["uses"] += 1
        self.rows = [row for row in self.rows if row["uses"] < self.chosen["uses"]]
        self.sampled += count
        self.arrived = 0

    @precondition(lambda self: self.arrived == 0)
    @rule()
    def interrupt_and_resume(self):
        state = self.bank.state_dict()
        assert "example/image" not in state
        self.bank = self.new_bank(seed=99)
        self.bank.add(examples([7]), torch.zeros(1))  # what it held is forgotten

        def read(draws):
            assert self.chosen["keep"]
            return examples(draws.tolist())

        self.bank.load_state_dict(state, read)
        for name, value in self.bank.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)

    @invariant()
    def holds_what_the_model_holds(self):
        if hasattr(self, "rows"):
            assert len(self.bank) == len(self.rows) <= self.chosen["capacity"]

    @invariant()
    def wants_and_accepts_what_the_model_does(self):
        if not hasattr(self, "rows"):
            return
        ratio, minimum, held = self.chosen["ratio"], self.chosen["minimum"], len(self.rows)
        if ratio is None:
            wants = held == 0 or self.arrived == 0 or self.inserted < minimum
            accepts = wants
        else:
            first = max(minimum, b)
            owed = ratio * (self.inserted - max(minimum - max(b / ratio, B), 0)) - self.sampled
            growing = self.arrived == 0 or held > self.before
            short = held == 0 or (held < b and growing)
            wants = short or self.inserted < first or owed - b < 0
            accepts = held < b or self.inserted < first or owed <= b
            assert accepts or not wants  # or nobody could go on
        assert self.bank.wants(b) == wants
        assert self.bank.accepts() == accepts


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
