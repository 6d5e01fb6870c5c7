"""Store: every run once, shared by all claims, whoever trains it first.

$RUNS/runs/KEY        run folders, as ``superbatch train`` writes them
$RUNS/references/     references, shared by the runs
$RUNS/made/           tables and orders
$RUNS/data/           the files of the data sets
$RUNS/sessions/       processor seconds of each run, and the pace of its models before and after
$RUNS/locks/          held by the process that trains; the system frees those of a dead one
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from paper.arm import Arm, Made, Places, digest
from paper.rates import Paces, mean_pace, paces_of
from superbatch.config import Config
from superbatch.errors import RunError
from superbatch.files import write_json
from superbatch.report.read import Run, read_run
from superbatch.roles import ROLES_OF, uses_reference
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings


class BusyError(Exception):
    """Another process is at it."""


@dataclass(frozen=True)
class Store:
    """The runs of all claims below one folder."""

    places: Places

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where the run of ``arm`` is."""
        return self.places.runs / "runs" / arm.key(seed)

    def summary(self, arm: Arm, seed: int) -> dict[str, Any] | None:
        """What the run came to; None while it has not ended."""
        folder = self.folder(arm, seed)
        if not (folder / "summary.json").is_file():
            return None
        summary: dict[str, Any] = RunFolder.open(folder).summary()
        return summary

    def run_of(self, arm: Arm, seed: int) -> Run:
        """The run as the report reads it, by the arm's name."""
        run = read_run(self.folder(arm, seed))
        return replace(run, config={**run.config, "recipe": arm.name})

    def environment(self, key: str) -> dict[str, Any]:
        """What the run of that name was made with."""
        path = self.places.runs / "runs" / key / "environment.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def train(self, arm: Arm, seed: int, around: Surroundings) -> None:
        """Train ``arm`` unless it is trained. Raises ``BusyError`` if another process does."""
        if self.summary(arm, seed) is not None:
            return
        with self._held(arm.key(seed)):
            if self.summary(arm, seed) is not None:
                return
            if arm.made is not None:
                self.train(arm.made.source, arm.made.source_seed(seed), around)
                self.make(arm.made, seed)
            from superbatch import training  # slow to import

            config = arm.config(seed, self.places)
            around = replace(around, references=self.places.runs / "references")
            self._reference(config, around, arm.paced)
            roles = ("learner", *ROLES_OF[config.select.criterion])
            paces = partial(paces_of, roles, config, arm.paced)
            with self._timed(arm.key(seed), paces):
                training.start_or_resume(config, around)

    def make(self, made: Made, seed: int) -> None:
        """Make a table or an order unless it is there."""
        out = Path(self.places.expand(made.path(seed)))
        with self._held(out.stem):
            if out.exists():
                return
            from superbatch.cli import main

            source = made.source_seed(seed)
            summary = self.summary(made.source, source)
            assert summary is not None  # the source has been trained
            trained = (summary["reference"] or {}).get("checkpoint", "")
            given = {
                "$SOURCE": str(self.folder(made.source, source)),
                "$REFERENCE": str(Path(trained).parents[1]) if trained else "",
            }
            words = [self.places.expand(word) for word in made.words]
            for name, path in given.items():
                words = [word.replace(name, path) for word in words]
            out.parent.mkdir(parents=True, exist_ok=True)
            with self._timed(out.stem), contextlib.redirect_stdout(sys.stderr):
                code = main([*words, f"--out={out}"])
            if code != 0:
                raise RunError(f"superbatch {' '.join(words)} failed, see above")

    def processor_seconds(self, arm: Arm, seed: int) -> float | None:
        """What the run and its reference took of the processor; None where a session was lost."""
        names = [arm.key(seed)]
        config = self.config_of(arm, seed)
        if trains_reference(config):
            names.append(reference_key(config))
        parts = [self._sessions(name) for name in names]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def paces(self, arm: Arm, seed: int) -> tuple[Paces, Paces]:
        """Of the models of a run, timed beside it, and of its reference beside its training; empty
        where none was timed.
        """
        config = self.config_of(arm, seed)
        before = self._paces(reference_key(config)) if trains_reference(config) else {}
        return self._paces(arm.key(seed)), before

    def seconds_paid_once(self, made: Made, seed: int) -> float | None:
        """Processor seconds of what ``made`` is made of and of making it: for a table its model's
        training, for an order the whole run. None where a session was lost.
        """
        source, its_seed = made.source, made.source_seed(seed)
        if made.kind == "order":
            before = self.processor_seconds(source, its_seed)
        else:
            before = self._sessions(reference_key(self.config_of(source, its_seed)))
        making = self._sessions(Path(made.path(seed)).stem)
        return None if before is None or making is None else before + making

    def config_of(self, arm: Arm, seed: int) -> Config:
        """What the run was configured as."""
        return Config.model_validate(RunFolder.open(self.folder(arm, seed)).config())

    def _reference(self, config: Config, around: Surroundings, paced: int) -> None:
        """Train the reference that runs share, so that no two processes do at once."""
        if not trains_reference(config):
            return
        key = reference_key(config)
        done = self.places.runs / "references" / f"{key}.json"
        with self._held(key):
            if done.is_file():
                return
            from superbatch import training
            from superbatch.problems import problem_of
            from superbatch.reference_run import trained_reference

            paces = partial(paces_of, ["reference"], config, paced)
            with self._timed(key, paces):
                facts = trained_reference(
                    config,
                    problem_of(config),
                    RunFolder(Path(str(config.out))),
                    around,
                    training.start_or_resume,
                )
            write_json(done, {"reference": Path(facts["checkpoint"]).parents[1].name})

    @contextlib.contextmanager
    def _held(self, name: str) -> Iterator[None]:
        path = self.places.runs / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(name) from error
            yield

    @contextlib.contextmanager
    def _timed(self, name: str, paces: Callable[[], Paces] = dict) -> Iterator[None]:
        """A line when a session begins, and one when it ends; one that is killed has no second.

        With the ``paces`` of its models then, but for the end of one that is broken off.
        """
        path = self.places.runs / "sessions" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)

        def said(**line: Any) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        said(begins=True, load=os.getloadavg()[0], paces=paces())
        began = time.process_time()
        try:
            yield
        except BaseException:
            said(processor_seconds=time.process_time() - began)
            raise
        said(processor_seconds=time.process_time() - began, paces=paces())

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.places.runs / "sessions" / f"{name}.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _paces(self, name: str) -> Paces:
        return mean_pace([line.get("paces", {}) for line in self._lines(name)])

    def _sessions(self, name: str) -> float | None:
        lines = self._lines(name)
        seconds = [line["processor_seconds"] for line in lines if "processor_seconds" in line]
        return sum(seconds) if lines and 2 * len(seconds) == len(lines) else None


def trains_reference(config: Config) -> bool:
    """Whether a reference is trained before the run."""
    before = config.reference_training.data in ("pool", "holdout")
    return before and uses_reference(config) and config.reference is None


def reference_key(config: Config) -> str:
    """A name for what decides the reference of ``config``."""
    from superbatch.reference_run import reference_config

    values = reference_config(config, {}).model_dump(mode="json")
    return f"reference-{digest([json.dumps(values, sort_keys=True)])}"
