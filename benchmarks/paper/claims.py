"""Claims: what the paper says, and the arms that would show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from paper.arm import Arm, Made
from paper.arms import Bench
from paper.data import Data
from paper.settings import Preset


@dataclass(frozen=True, eq=False)
class Study:
    """Arms on one data set, and the baseline of each: a uniform one of as many updates."""

    data: Data
    uniform: tuple[Arm, ...]
    others: tuple[Arm, ...]
    follows: bool = True
    """Then also run uniform at each arm's FLOPs, and each arm to end where it had caught up."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All of them, the baselines first."""
        return self.uniform + self.others

    def baseline(self, arm: Arm) -> Arm:
        """What ``arm`` is held against: uniform with as many updates, else the first."""
        same = [one for one in self.uniform if one.steps == arm.steps]
        return same[0] if same else self.uniform[0]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper."""

    name: str
    where: str
    says: str
    compares: str
    study: Callable[[Bench], Study]
    figure: Literal["curves", "actors", "budgets"] = "curves"
    targets: tuple[float, ...] = ()
    """Shares of uniform's final accuracy, to each of which epochs are counted."""
    paper: str = "Evans et al. 2023"

    def studies(self, preset: Preset, data: Mapping[str, Data], on: str) -> list[Study]:
        """One for each data set that the preset has for it."""
        return [self.study(Bench(preset, data[name], on)) for name in preset.data[self.name]]


def criteria(bench: Bench) -> Study:
    return Study(
        bench.data,
        (bench.uniform(),),
        (
            bench.selecting("hard", "hard", reference=""),
            bench.selecting("easy_reference", "easy_reference"),
            bench.selecting("learnability", "classact"),
            bench.selecting("rho_loss", "rho_loss", temperature=0.0),
        ),
    )


def actors(bench: Bench) -> Study:
    kinds = {"learnability": "classact", "easy_reference": "easy_reference"}
    return Study(
        bench.data,
        (bench.uniform(),),
        tuple(
            replace(arm, about={"actor": actor, "criterion": name})
            for name, recipe in kinds.items()
            for actor in bench.preset.actors
            for arm in [bench.selecting(f"{name}, {actor}", recipe, actor=actor)]
        ),
    )


def variants(bench: Bench) -> Study:
    """All learn half of the pool, as in the paper, where the other half is the held-out data."""
    half = {"data.holdout-fraction": "0.5"}
    temperature = bench.preset.temperature
    rho = bench.selecting("RHO", "rho_loss", half, reference="pool", temperature=temperature)
    online = bench.selecting("ClassAct-Online", "classact_online", half, reference="")
    small = {"models.reference": bench.preset.reference_actor or bench.preset.actor}
    return Study(
        bench.data,
        (bench.uniform(data__holdout_fraction="0.5"),),
        (
            rho,
            bench.selecting("ClassAct-HO", "classact_ho", half, reference="pool"),
            bench.selecting("ClassAct", "classact", half, reference="pool"),
            replace(online, flags={**online.flags, **small}),
        ),
    )


def budgets(bench: Bench) -> Study:
    preset = bench.preset
    found: dict[str, list[Arm]] = {"uniform": [], "learnability": []}
    for share in preset.budgets:
        steps = round(share * preset.steps)
        reference = {"reference-training.steps": str(round(share * preset.reference_steps))}
        uniform = bench.uniform(f"uniform, {steps} updates", steps)
        chosen = bench.selecting(
            f"learnability, {steps} updates", "classact", reference, steps=steps
        )
        for name, arm in (("uniform", uniform), ("learnability", chosen)):
            found[name].append(replace(arm, about={"criterion": name}))
    uniform_arms, others = found.values()
    return Study(bench.data, tuple(uniform_arms), tuple(others), follows=False)


def references(bench: Bench) -> Study:
    data = bench.data
    if data.pairs:
        return Study(
            data,
            (bench.pair("clip", "clip"),),
            (
                bench.pair("reference of the pool", "active_clip"),
                bench.pair("reference of the curated part", "active_clip", data.clean),
                *(
                    bench.pair(f"reference of {name}", "active_clip", path)
                    for name, path in data.parts.items()
                ),
            ),
        )
    arms = [bench.selecting("reference of the pool", "classact", reference="pool")]
    for name, path in data.parts.items():
        arms.append(bench.selecting(f"reference of {name}", "classact", reference=path))
    if data.clean:
        arms.append(bench.selecting("reference of the clean part", "classact", reference="clean"))
    if data.both:
        arms.append(bench.uniform("uniform, clean part too", data__path=data.both))
    return Study(data, (bench.uniform(),), tuple(arms))


def amortised(bench: Bench) -> Study:
    """What learnability chooses depends on the actors alone, not on the learner: so an order can
    be distilled from a run with any learner, such as a small one.
    """
    plain = {"score-view": "plain"}
    live = bench.selecting("live", "classact", plain)
    small = bench.selecting(
        "small", "classact", plain | {"models.learner": bench.preset.small_learner}
    )
    scored = ("score", "--model=$REFERENCE", *bench.as_it_is())
    found = bench.selecting(
        "table",
        "classact",
        plain | {"reference": "$MADE"},
        reference="given",
        made=Made("table", live, scored),
    )
    replay, policy = ("order", "--run=$SOURCE"), ("order", "--run=$SOURCE", "--kind=policy")
    orders = {
        "its order": Made("order", live, replay),
        "its order, from a small learner": Made("order", small, replay),
        "order of another seed": Made("order", small, policy, shift=100),
    }
    order = bench.uniform(data__order="$MADE")
    replayed = [replace(order, name=name, made=made) for name, made in orders.items()]
    return Study(bench.data, (bench.uniform(),), (live, found, *replayed))


def epochs(bench: Bench) -> Study:
    """RHO-LOSS's own sizes: the highest 32 of 320; both arms learn the same half."""
    preset = bench.preset
    sizes = {
        "select.sub-batch-size": str(preset.rho_loss_batch),
        "data.holdout-fraction": "0.5",
        "record.checkpoint-every": str(max(1, preset.rho_loss_steps // preset.checkpoints)),
    }
    wide = {"select.super-batch-size": str(10 * preset.rho_loss_batch)}
    steps = preset.rho_loss_steps
    uniform = bench.uniform(steps=steps)
    rho = bench.selecting(
        "rho_loss", "rho_loss", sizes | wide, reference="pool", steps=steps, temperature=0.0
    )
    return Study(bench.data, (replace(uniform, flags={**uniform.flags, **sizes}),), (rho,))


SHARE_OF_UPDATES = 0.54
"""What the paper's best runs were left with (46 % fewer)."""
SMALLER_SHARE = 0.45
"""What a learner is left with that saves seconds as well: small models are slow for their FLOPs."""


def goal(bench: Bench) -> Study:
    """Fully decayed at 54 and 45 % of uniform's updates, against uniform's best in all its own."""
    preset = bench.preset
    steps = int(SHARE_OF_UPDATES * preset.steps)
    fewer = int(SMALLER_SHARE * preset.steps)
    plain, both = {"score-view": "plain"}, {"data.path": bench.data.both}
    return Study(
        bench.data,
        (bench.uniform(),),
        (
            bench.selecting("learnability", "classact", plain, steps=steps),
            bench.selecting("learnability, 45 %", "classact", plain, steps=fewer),
            bench.uniform("uniform, 1.1 times those updates", round(1.1 * steps)),
            bench.uniform("uniform, clean part too", data__path=bench.data.both),
            bench.selecting("learnability, clean part too", "classact", plain | both, steps=steps),
        ),
        follows=False,
    )


_ALL = (
    Claim(
        "GOAL",
        "abstract",
        "46 to 51 % fewer updates and up to 25 % less total compute than uniform training.",
        "learnability, fully decayed at 54 % of uniform's updates, with uniform's best",
        goal,
    ),
    Claim(
        "C1",
        "figure 3",
        "Learnability and easy-reference selection reach uniform's best after 33 % fewer updates, "
        "hard-learner selection hardly any; there the reference is as large as the learner.",
        "criteria, at the same updates and at the same total FLOPs",
        criteria,
    ),
    Claim(
        "C2",
        "figures 2 and 4",
        "Learnability survives shrinking the actors (31 % fewer updates with actors 4 times "
        "cheaper, 26 % at 47 times, 16 % at about 1000); easy-reference selection does not.",
        "actor sizes, learnability against easy-reference",
        actors,
        figure="actors",
    ),
    Claim(
        "C3",
        "table 1",
        "Updates saved / compute saved: RHO 0 / -79 %, ClassAct-HO 18 / 3 %, ClassAct 18 / 3 %, "
        "ClassAct-Online 17 / 2 %: two small models, held-out or not, trained before or alongside.",
        "who scores, and what the reference learned",
        variants,
    ),
    Claim(
        "C4",
        "figure 5",
        "Savings hold over compute budgets; the fitted scaling curves shift.",
        "several budgets, each with its schedule fully decayed",
        budgets,
        figure="budgets",
    ),
    Claim(
        "C5",
        "figures 6 and 7, table 2",
        "A reference that learned a small curated set is better than one that learned the noisy "
        "pool (48 % fewer updates against 23 % on ALIGN), and carries over to other data.",
        "what the reference learned; and a learner that is simply given the clean part",
        references,
    ),
    Claim(
        "C6",
        "figure 2",
        "Scores kept beside the data, or an order distilled from a run, keep the gain and cost "
        "next to nothing.",
        "live scoring, a table, its order replayed, an order of a run with a smaller learner",
        amortised,
    ),
    Claim(
        "C7",
        "table 2 there; its notebooks",
        "RHO-LOSS reaches uniform's final accuracy in 2.3 to 2.9 times fewer epochs on CIFAR-10.",
        "epochs to a target accuracy, with and without 10 % wrong labels",
        epochs,
        targets=(0.9, 1.0),
        paper="Mindermann et al. 2022",
    ),
)
CLAIMS: Mapping[str, Claim] = MappingProxyType({claim.name: claim for claim in _ALL})
"""All claims by name."""
