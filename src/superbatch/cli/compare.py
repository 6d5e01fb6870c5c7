"""``superbatch compare``: several recipes on the same data and seeds, one table at the end."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from superbatch.checks import check
from superbatch.cli.output import console, say
from superbatch.cli.settings import JsonSwitch, Settings, Switch, leading_words, parse
from superbatch.config import Config
from superbatch.errors import ConfigError, DataError, RunError, Stopped
from superbatch.files import half_written, read_json, write_json
from superbatch.recipes import RECIPES, UNIFORM, recipe, resolved
from superbatch.roles import uses_reference


if TYPE_CHECKING:
    from superbatch.cli.confirm import Trial
    from superbatch.report.speedup import Comparison
    from superbatch.surroundings import Status, Surroundings


class Compare(BaseModel):
    """superbatch compare RECIPE RECIPE... [flags]. The same command again goes on where it stopped.

    Every recipe gets the same flags, the same data (what one holds out, no learner sees) and the
    same seeds: --seed and the ones after it.
    """

    settings: Settings = Config()
    seeds: int = Field(1, ge=1)
    """How many seeds."""
    baseline: str | None = None
    """The recipe that the others are held against; none: the uniform one among them."""
    confirm: Switch = False
    """Then run each recipe again to end where it reached the baseline's best, its schedule fully
    decayed, and the baseline with as much compute in total as each recipe."""
    json_: JsonSwitch = False
    """Print the comparison as JSON instead of a table."""


@dataclass(frozen=True)
class Plan:
    """The runs to make, in order, and where."""

    out: Path
    runs: tuple[Config, ...]


def run(argv: Sequence[str]) -> int:
    """Train what is not trained yet, then compare."""
    names, flags = leading_words(argv)
    arguments = parse(Compare, Compare(), flags, "compare RECIPE RECIPE...")
    plan = plan_of(names, flags, arguments)
    claim(plan)
    from superbatch.cli.progress import watched  # slow to import: only once all flags are good
    from superbatch.sources.open import opened_once

    references = plan.out / "references"
    with watched(quiet=arguments.json_, references=references) as around, opened_once():
        train_all(plan, around)
        comparison = compared(plan, baseline_among(names, arguments.baseline))
        again = confirming(plan, comparison) if arguments.confirm else []
        train_all(Plan(plan.out, unique(config for _, config in again)), around)
    show(plan, comparison, again, as_json=arguments.json_)
    return 0


def plan_of(names: Sequence[str], flags: Sequence[str], arguments: Compare) -> Plan:
    """The runs of ``compare`` with these recipes and flags."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"compare needs two recipes or more, each once ({', '.join(RECIPES)}); "
            f"it was given {' '.join(names) or 'none'}"
        )
    baseline_among(names, arguments.baseline)
    if arguments.settings.ranks.launcher == "ray":
        raise ConfigError(
            "superbatch compare is for one process and cannot use --ranks.launcher ray; leave it "
            "out (train alone is for several)"
        )
    configs = [
        parse(Compare, Compare(settings=recipe(name)), flags, f"compare {name}").settings
        for name in names
    ]
    refuse_mixed(configs)
    held_out = max(config.data.holdout_fraction for config in configs)
    out = Path(arguments.settings.out or f"runs/compare-{'-'.join(names)}")
    runs = [
        resolved(
            config.changed(
                seed=seed,
                data={"holdout_fraction": held_out},
                out=str(run_path(out, config, seed)),
                # The flags are the same for all; the recipes that score without one do without.
                reference=config.reference if uses_reference(config) else None,
                reference_data=config.reference_data if uses_reference(config) else None,
                reference_missing=config.reference_missing if uses_reference(config) else None,
            )
        )
        for seed in range(arguments.settings.seed, arguments.settings.seed + arguments.seeds)
        for config in configs
    ]
    for config in runs:
        check(config)
    return Plan(out, tuple(runs))


def refuse_mixed(configs: Sequence[Config]) -> None:
    """Raise ``ConfigError`` unless all learn the same: data is either of labels or of pairs."""
    pairs = [config.recipe for config in configs if config.task == "image_text"]
    labels = [config.recipe for config in configs if config.task != "image_text"]
    if labels and pairs:
        raise ConfigError(
            f"labels are what {', '.join(labels)} can learn and pairs of image and text what "
            f"{', '.join(pairs)} can, and no data is both; compare recipes of one kind"
        )


def baseline_among(names: Sequence[str], asked: str | None) -> str:
    """The baseline that is asked for, or the first uniform recipe of ``names``."""
    uniform = [name for name in names if name in UNIFORM]
    if asked is None and not uniform:
        raise ConfigError(
            f"none of the recipes {' '.join(names)} is uniform ({', '.join(UNIFORM)}); add one to "
            "hold the others against, or name another with --baseline"
        )
    if asked is not None and asked not in names:
        raise ConfigError(f"--baseline {asked} is not among the recipes {' '.join(names)}")
    return asked or uniform[0]


def run_path(out: Path, config: Config, seed: int) -> Path:
    """Where one run of a comparison is written."""
    return out / f"{config.recipe}-seed{seed}"


def claim(plan: Plan) -> None:
    """Write the plan, or find it written: a folder with any other plan or content is refused."""
    path = plan.out / "plan.json"
    runs = [config.model_dump(mode="json") for config in plan.runs]
    if path.is_file() and alike(read_json(path, list, "restore it, or give a new --out"), runs):
        return
    if plan.out.exists():
        nothing = {path, *half_written(plan.out, path.name)}  # a kill may have cut it short
        begun = not plan.out.is_dir() or not nothing.issuperset(plan.out.iterdir())
        if begun and path.is_file():
            raise RunError(
                f"{plan.out} holds a comparison with other settings; give a new --out, or "
                "the very command that began it to go on with it"
            )
        if begun:
            raise RunError(f"{plan.out} exists and is no comparison; give a new --out")
    write_json(path, runs)


def alike(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether two plans are of the same runs, wherever these are written."""
    return [without_out(run) for run in ours] == [without_out(run) for run in theirs]


def without_out(run: Any) -> Any:
    """``run`` but for its folder: ``out`` may be spelled otherwise, and folders move."""
    return {name: x for name, x in run.items() if name != "out"} if isinstance(run, dict) else run


def train_all(plan: Plan, around: "Surroundings") -> None:
    """Every run of the plan that is not finished."""
    from superbatch import training

    folders = [Path(str(config.out)) for config in plan.runs]
    left = [place for place, folder in enumerate(folders) if not is_finished(folder)]
    if left:
        done_before = [folder for folder in folders if is_finished(folder)]
        refuse_other_data(plan.runs[left[0]], done_before, around)
    began = time.monotonic()
    for done, place in enumerate(left):
        title = f"run {place + 1}/{len(folders)} {folders[place].name}"
        share = PlanShare(title, done, len(left), began)
        inside = replace(around, watch=share.watching(around.watch))
        try:
            if (folders[place] / "config.json").is_file():
                training.resume(folders[place], inside)
            else:
                training.start(plan.runs[place], inside)
        except Stopped as stopped:
            raise Stopped(f"stopped in {title}; the same command goes on from there") from stopped


def refuse_other_data(config: Config, finished: Sequence[Path], around: "Surroundings") -> None:
    """Raise ``DataError`` where ``finished`` runs learned from data that has changed since."""
    from superbatch.chosen import data_of
    from superbatch.problems import problem_of
    from superbatch.run import RunFolder
    from superbatch.tables.fingerprint import fingerprint

    known = {
        folder: data_of(part)
        for folder in finished
        for part in RunFolder(folder).parts("chosen")[:1]
    }
    now = fingerprint(problem_of(config, around.reading).examples) if known else ""
    for folder, then in known.items():
        if then != now:
            raise DataError(
                f"{folder} learned from other data than {config.data.path} is now ({then} and "
                f"{now}); put it back, or compare in a new --out"
            )


def is_finished(folder: Path) -> bool:
    """Whether a run ended in ``folder``."""
    return (folder / "summary.json").is_file()


@dataclass(frozen=True)
class PlanShare:
    """One run as a part of what is left to train: ``done`` of ``total`` runs since ``began``."""

    title: str
    done: int
    total: int
    began: float

    def watching(self, watch: "Callable[[Status], None]") -> "Callable[[Status], None]":
        """``watch`` told which run it is, and how many seconds the whole plan has left."""

        def titled(status: "Status") -> None:
            before = status.title in ("reference", "reading")
            worked = self.done + (0.0 if before else status.step / status.steps)
            numbers = dict(status.numbers)
            if worked > 0.05:  # before that, starting up would pass for the pace
                rate = (time.monotonic() - self.began) / worked
                numbers["plan/seconds_left"] = rate * (self.total - worked)
            title = self.title + (f", {status.title}" if before else "")
            watch(replace(status, title=title, numbers=numbers))

        return titled


def folders(plan: Plan) -> Iterator[Path]:
    """The folders of the plan's runs."""
    for config in plan.runs:
        assert config.out is not None
        yield Path(config.out)


def compared(plan: Plan, baseline: str) -> "Comparison":
    """The finished runs of the plan against the baseline; also written beside them."""
    from superbatch.report.read import read_runs
    from superbatch.report.speedup import compare_runs

    comparison = compare_runs(read_runs(list(folders(plan))), baseline=baseline)
    write_json(plan.out / "comparison.json", comparison.to_json())
    return comparison


def confirming(plan: Plan, comparison: "Comparison") -> "list[tuple[Trial, Config]]":
    """What ``--confirm`` runs again."""
    from superbatch.cli.confirm import confirming_runs, trials

    return confirming_runs(trials(comparison, plan.runs[0].steps), plan.runs, plan.out)


def unique(configs: Iterable[Config]) -> tuple[Config, ...]:
    """Each run once: two trials may ask for the same."""
    return tuple({config.out: config for config in configs}.values())


def show(
    plan: Plan,
    comparison: "Comparison",
    again: "list[tuple[Trial, Config]]",
    *,
    as_json: bool,
) -> None:
    """The comparison, and what was run again to confirm it."""
    from superbatch.cli.confirm import confirmation, confirmation_table
    from superbatch.cli.progress import DIVERGED
    from superbatch.report.table import comparison_table
    from superbatch.run import RunFolder

    confirmed = confirmation(comparison, again)
    if confirmed:
        write_json(plan.out / "confirmation.json", confirmed)
    if as_json:
        print(json.dumps(comparison.to_json() | {"confirmation": confirmed}, indent=2))
        return
    out = console()
    out.print(comparison_table(comparison))
    if confirmed:
        out.print(confirmation_table(confirmed))
    for folder in folders(plan):
        say(f"run folder {folder}")
        if RunFolder(folder).diverged():
            say(DIVERGED)
