"""Arm: one way to train, as the very flags of ``superbatch train``, so that a hand can repeat it.

Paths in flags begin with $RUNS (the folder of all runs) or $DATA (that of the data sets), so that
what is published holds no path of one machine, and a run is known by its name anywhere.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from superbatch.cli.train import arguments_of
from superbatch.config import Config


Flags = Mapping[str, str]
"""Flag without its dashes to value; an empty value is a switch."""


@dataclass(frozen=True)
class Places:
    """What $RUNS and $DATA are on this machine."""

    runs: Path
    data: Path

    def expand(self, text: str) -> str:
        """``text`` with real paths."""
        return text.replace("$RUNS", str(self.runs)).replace("$DATA", str(self.data))


@dataclass(frozen=True, eq=False)
class Made:
    """A file that another arm's finished run is turned into, for each seed, before an arm can run.

    ``words`` come after ``superbatch``, where $SOURCE is that run and $REFERENCE its reference's.
    An arm names the file as $MADE.
    """

    kind: Literal["table", "order"]
    source: "Arm"
    words: tuple[str, ...]
    shift: int = 0
    """The source's seed is the arm's plus this."""

    def source_seed(self, seed: int) -> int:
        """The seed of the run that it is made from."""
        return seed + self.shift

    def path(self, seed: int) -> str:
        """Where it is kept."""
        source = self.source.key(self.source_seed(seed))
        return f"$RUNS/made/{self.kind}-{digest([*self.words, source])}.parquet"


@dataclass(frozen=True, eq=False)
class Arm:
    """A name among those it is compared with, a recipe, its flags, and how many updates."""

    name: str
    recipe: str
    flags: Flags
    steps: int
    evaluations: int = 20
    made: Made | None = None
    about: Mapping[str, float | str] = field(default_factory=dict)
    """What a table or a figure places it by, such as the actor's size."""
    paced: int = 0
    """Pixels a side of its images, where its models are timed beside its runs; 0 where not."""

    def words(self, seed: int) -> list[str]:
        """What comes after ``superbatch train``, but for --out."""
        flags = dict(self.flags) | {
            "steps": str(self.steps),
            "record.evaluate-every": str(max(1, round(self.steps / self.evaluations))),
            "seed": str(seed),
        }
        made = self.made.path(seed) if self.made else ""
        values = ((name, value.replace("$MADE", made)) for name, value in flags.items())
        return [
            self.recipe,
            *(f"--{name}={value}" if value else f"--{name}" for name, value in values),
        ]

    def command(self, seed: int) -> str:
        """How to repeat it by hand, with RUNS and DATA set."""
        return " ".join(["superbatch", "train", *(quoted(word) for word in self.words(seed))])

    def key(self, seed: int) -> str:
        """The name of its run: of two arms with the same recipe and flags there is one run."""
        recipe, *flags = self.words(seed)
        return f"{recipe}-{digest(sorted(flags))}-seed{seed}"

    def part(self, seed: int, count: int) -> int:
        """Which of ``count`` parts of all runs, from 1, the run belongs to."""
        return int(self.key(seed).split("-")[-2], 16) % count + 1

    def config(self, seed: int, places: Places) -> Config:
        """What runs."""
        words = [places.expand(word) for word in self.words(seed)]
        settings = arguments_of(words)[0].settings
        return settings.changed(out=str(places.runs / "runs" / self.key(seed)))


def digest(values: list[str]) -> str:
    """A short name of ``values``."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=5).hexdigest()


def quoted(word: str) -> str:
    """``word`` for a shell that must replace $RUNS and nothing else."""
    return f'"{word}"' if any(letter in word for letter in "{}* ") else word
