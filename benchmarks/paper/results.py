"""Numbers: what the finished runs of a claim come to, as the values that are published.

All that was measured with a clock stands under keys that are called "seconds"; everything else is
the same whenever and wherever the runs are made.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pyarrow.parquet as parquet

from paper.arm import Arm
from paper.claims import Study
from paper.follow import Followed, comparison_of, followed, has_ended, summary_of
from paper.rates import predicted_seconds
from paper.store import Store
from superbatch.report.curves import recipe_curve
from superbatch.report.read import Run
from superbatch.report.speedup import RESULT_KEYS, Comparison, first_reach
from superbatch.report.statistics import paired_interval, spread


Summaries = Sequence[Mapping[str, Any]]


def study_numbers(store: Store, study: Study, seeds: Sequence[int], grid: int) -> dict[str, Any]:
    """All arms of a study that have ended with every seed."""
    ended = [arm for arm in study.arms if has_ended(store, arm, seeds)]
    ended = [arm for arm in ended if has_ended(store, study.baseline(arm), seeds)]
    return {
        "data": study.data.name,
        "says": study.data.says,
        "unfinished": [arm.name for arm in study.arms if arm not in ended],
        "waiting": waiting(store, study, seeds, grid),
        "arms": [arm_numbers(store, study, arm, seeds, grid) for arm in ended],
    }


def waiting(
    store: Store, study: Study, seeds: Sequence[int], grid: int
) -> list[dict[str, str | int]]:
    """Follow-ups that finished arms ask for and that have not been run."""
    found = []
    for arm in study.others:
        again = followed(store, study, arm, seeds, grid)
        asked = {} if again is None else {"equal": again.equal, "sooner": again.sooner}
        found += [
            {"arm": arm.name, "for": name, "steps": one.steps}
            for name, one in asked.items()
            if one is not None and not has_ended(store, one, seeds)
        ]
    return found


def arm_numbers(
    store: Store, study: Study, arm: Arm, seeds: Sequence[int], grid: int
) -> dict[str, Any]:
    """One arm against its baseline."""
    baseline = study.baseline(arm)
    comparison = comparison_of(store, study, arm, seeds)
    runs = [store.run_of(arm, seed) for seed in seeds]
    spent, base = summaries(store, arm, seeds), summaries(store, baseline, seeds)
    again = followed(store, study, arm, seeds, grid)
    summary = summary_of(comparison, arm)
    return {
        "name": arm.name,
        "baseline": baseline.name,
        "about": dict(arm.about),
        "command": arm.command(seeds[0]),
        "steps": arm.steps,
        "seeds": list(seeds),
        "runs": [arm.key(seed) for seed in seeds],
        "metric": comparison.metric,
        "by_seed": per_seed(comparison, arm),
        **{key: summary.spreads[key].to_json() for key in RESULT_KEYS if key != "seconds_speedup"},
        "reached": summary.reached,
        "difference": summary.final_difference.to_json(),
        "flops": flops(spent),
        "relative_flops": relative_flops(spent, base),
        "flops_by_role": spent[0]["flops"]["by_role"],
        "paid_once": paid_once(store, arm, seeds),
        "clean_share": clean_share(spent),
        "equal_compute": equal_compute(store, again, seeds),
        "sooner": sooner(store, study, again, seeds),
        "curve": curve(runs, comparison.metric),
        "seconds": seconds(store, study, arm, seeds)
        | {"speedup": summary.spreads["seconds_speedup"].to_json()},
    }


def summaries(store: Store, arm: Arm, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the runs of ``arm`` came to."""
    found = [store.summary(arm, seed) for seed in seeds]
    return [one for one in found if one is not None]


def per_seed(comparison: Comparison, arm: Arm) -> list[dict[str, Any]]:
    """Every seed by itself."""
    own = [result for result in comparison.results if result.recipe == arm.name]
    return [
        {"seed": result.run.seed, "difference": result.final_difference}
        | {key: getattr(result, key) for key in RESULT_KEYS if key != "seconds_speedup"}
        for result in own
    ]


def flops(spent: Summaries) -> dict[str, float]:
    """FLOPs in both accountings, mean over seeds."""
    return {name: fmean(one["flops"][name] for one in spent) for name in ("paper", "full")}


def relative_flops(ours: Summaries, base: Summaries) -> dict[str, float]:
    """The same over those of ``base``."""
    mine, theirs = flops(ours), flops(base)
    return {name: mine[name] / theirs[name] for name in mine}


def clean_share(spent: Summaries) -> dict[str, Any] | None:
    """Clean labels among the chosen, and among all that was drawn; None where none is known."""
    found = [one["selection"] for one in spent if "clean_share" in one["selection"]]
    if not found:
        return None
    shares = {
        key: spread([one[key] for one in found]) for key in ("clean_share", "clean_share_pool")
    }
    chosen, pool = (value.to_json() for value in shares.values())
    return {"chosen": chosen, "pool": pool}


def paid_once(store: Store, arm: Arm, seeds: Sequence[int]) -> float:
    """FLOPs that went before and are not in the arm's own: the run that its order is of, or the
    training of the model that its table is of and that model's pass over the data.
    """
    if arm.made is None:
        return 0.0
    source = summaries(store, arm.made.source, [arm.made.source_seed(seed) for seed in seeds])
    if arm.made.kind == "order":
        return fmean(one["flops"]["full"] for one in source)
    path = store.places.expand(arm.made.path(seeds[0]))
    rows = parquet.read_metadata(path).num_rows
    reference = [one["flops"]["by_role"]["reference"] for one in source]
    a_row = reference[0]["score"] / source[0]["examples_seen"]
    return float(fmean(one["pretrain"] for one in reference) + rows * a_row)


def equal_compute(
    store: Store, again: Followed | None, seeds: Sequence[int]
) -> dict[str, Any] | None:
    """The arm's final value less that of uniform with at least as many FLOPs in full."""
    if again is None or not has_ended(store, again.equal, seeds):
        return None
    uniform, ours = (summaries(store, one, seeds) for one in (again.equal, again.arm))
    finals = [final(one) for one in uniform]
    pairs = zip(map(final, ours), finals, strict=True)
    return {
        "steps": again.equal.steps,
        "command": again.equal.command(seeds[0]),
        "final": spread(finals).to_json() | {"by_seed": finals},
        "flops": flops(uniform),
        "difference": paired_interval([mine - its for mine, its in pairs]).to_json(),
        "flops_over_arm": relative_flops(uniform, ours)["full"],
    }


def sooner(
    store: Store, study: Study, again: Followed | None, seeds: Sequence[int]
) -> dict[str, Any] | None:
    """The arm ended where it had passed uniform's best: what is left of updates, FLOPs, seconds."""
    if again is None or again.sooner is None or not has_ended(store, again.sooner, seeds):
        return None
    baseline = study.baseline(again.arm)
    ours, base = summaries(store, again.sooner, seeds), summaries(store, baseline, seeds)
    curves = [store.run_of(baseline, seed).curve(metric_of(base[0]))[1] for seed in seeds]
    bests = [float(values.max()) for values in curves]
    finals = [final(one) for one in ours]
    return {
        "steps": again.sooner.steps,
        "command": again.sooner.command(seeds[0]),
        "final": spread(finals).to_json() | {"by_seed": finals},
        "uniform_best": spread(bests).to_json(),
        "difference": paired_interval(
            [mine - best for mine, best in zip(finals, bests, strict=True)]
        ).to_json(),
        "updates": again.sooner.steps / baseline.steps,
        "flops": flops(ours),
        "relative_flops": relative_flops(ours, base),
        "seconds": seconds(store, study, again.sooner, seeds),
    }


def metric_of(summary: Mapping[str, Any]) -> str:
    """What runs of this kind are compared by."""
    return "val/accuracy" if "accuracy" in summary["val"] else "val/mean_recall"


def final(summary: Mapping[str, Any]) -> float:
    """The last evaluation."""
    return float(summary["val"][metric_of(summary).removeprefix("val/")])


def seconds(store: Store, study: Study, arm: Arm, seeds: Sequence[int]) -> dict[str, Any]:
    """Of the clock, without evaluation, and of the processor, with; each over uniform's, and over
    what its FLOPs predict: at uniform's seconds a FLOP, and at each model's own.
    """
    baseline = study.baseline(arm)
    ours, base = summaries(store, arm, seeds), summaries(store, baseline, seeds)
    clock = [trained_seconds(one) for one in ours]
    theirs = [trained_seconds(one) for one in base]
    all_flops = fmean(map(flops_with_evaluation, ours)) / fmean(map(flops_with_evaluation, base))
    measured = fmean(clock) / fmean(theirs)
    by_seed = [store.processor_seconds(arm, seed) for seed in seeds]
    processor = mean_known(by_seed)
    its = mean_known([store.processor_seconds(baseline, seed) for seed in seeds])
    of_processor = processor / its if processor and its else None
    at_rates = mean_known(
        [at_own_pace(store, arm, seed, one) for one, seed in zip(ours, seeds, strict=True)]
    )
    return {
        "seeds": list(seeds),
        "measured": spread(clock).to_json(),
        "relative": measured,
        "over_predicted": measured / relative_flops(ours, base)["full"],
        "processor": processor,
        "processor_by_seed": by_seed,
        "processor_relative": of_processor,
        "processor_over_predicted": of_processor / all_flops if of_processor else None,
        "predicted_at_rates": at_rates,
        "processor_over_rates": processor / at_rates if processor and at_rates else None,
        "paid_once": seconds_paid_once(store, arm, seeds),
    }


def at_own_pace(store: Store, arm: Arm, seed: int, spent: Mapping[str, Any]) -> float | None:
    """What a run should take, at the pace that its models had beside it; None if none was timed."""
    beside, before = store.paces(arm, seed)
    if not beside:
        return None
    config = store.config_of(arm, seed)
    return predicted_seconds(spent["flops"]["by_role"], config, beside, {**beside, **before})


def seconds_paid_once(store: Store, arm: Arm, seeds: Sequence[int]) -> float | None:
    """Of the processor, for what went before and is not in the arm's own."""
    made = arm.made
    if made is None:
        return 0.0
    return mean_known([store.seconds_paid_once(made, seed) for seed in seeds])


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one is not known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def trained_seconds(summary: Mapping[str, Any]) -> float:
    """Seconds of a run, its reference's included, without evaluations."""
    by_phase = summary["seconds"]["by_phase"]
    return float(sum(by_phase.values()) - by_phase.get("evaluation", 0.0))


def flops_with_evaluation(summary: Mapping[str, Any]) -> float:
    """All FLOPs, evaluations included."""
    roles = summary["flops"]["by_role"].values()
    return float(summary["flops"]["full"] + sum(role["evaluate"] for role in roles))


def curve(runs: Sequence[Run], metric: str) -> dict[str, list[float]]:
    """Mean and deviation over seeds at every evaluation, with both accountings."""
    found = recipe_curve(runs, metric, 1)
    if found is None:
        return {}
    line = found.mean
    columns = {
        "step": line.x["step"],
        "flops_paper": line.x["flops/paper"],
        "flops_full": line.x["flops/full"],
        "mean": line.raw,
        "std": line.raw_std,
    }
    return {name: [float(f"{value:.6g}") for value in column] for name, column in columns.items()}


def epochs_to(
    store: Store, study: Study, arm: Arm, seeds: Sequence[int], shares: Sequence[float]
) -> list[dict[str, float | None]]:
    """How many times fewer updates ``arm`` takes to ``shares`` of what uniform ends at."""
    found = []
    for share in shares:
        times: list[float | None] = []
        for seed in seeds:
            ours, base = store.run_of(arm, seed), store.run_of(study.baseline(arm), seed)
            (x, y), (base_x, base_y) = ours.curve("val/accuracy"), base.curve("val/accuracy")
            target = share * float(base_y[-1])
            mine, its = first_reach(x, y, target), first_reach(base_x, base_y, target)
            times.append(its / mine if mine and its else None)
        found.append({"share": share, **spread(times).to_json()})
    return found
