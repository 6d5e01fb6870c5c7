"""What is published of finished runs, against numbers worked by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from superbatch.report.read import read_run


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Student's t of one degree of freedom at 97.5 %
T_1 = 12.7062


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Runs:
    """Finished runs by arm and seed: accuracies at their steps, and what they cost."""

    def __init__(self, folder):
        self.folder = folder
        self.kept = {}

    def add(self, arm, seed, curve, *, full, seconds=1.0):
        folder = self.folder / arm.key(seed)
        folder.mkdir()
        config = {"recipe": arm.name, "seed": seed, "steps": arm.steps, "data": {"path": "made"}}
        (folder / "config.json").write_text(json.dumps(config))
        rows = [
            {
                "step": step,
                "examples_seen": step,
                "examples_learned": step,
                "seconds": float(step),
                "flops/paper": full * step / arm.steps,
                "flops/full": full * step / arm.steps,
                "val/accuracy": value,
            }
            for step, value in curve.items()
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        role = {"score": 0, "learn": full, "pretrain": 0, "evaluate": 0}
        summary = {
            "val": {"accuracy": curve[arm.steps]},
            "flops": {"paper": full, "full": full, "by_role": {"learner": role}},
            "seconds": {"by_phase": {"learn": seconds, "evaluation": 100.0}},
            "selection": {},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        self.kept[arm.key(seed)] = (folder, summary)

    def summary(self, arm, seed):
        return self.kept.get(arm.key(seed), (None, None))[1]

    def run_of(self, arm, seed):
        return read_run(self.kept[arm.key(seed)][0])

    def processor_seconds(self, arm, seed):
        return self.summary(arm, seed)["seconds"]["by_phase"]["learn"]

    def paces(self, arm, seed):
        return {}, {}


def arm(name, steps=100, **more):
    from paper.arm import Arm

    return Arm(name, name, {}, steps, **more)


def study(uniform, *others):
    from paper.claims import Study

    return Study(SimpleNamespace(name="made", says="made", side=8), (uniform,), others)


@pytest.fixture
def case(tmp_path):
    """Two seeds of uniform and an arm of twice its FLOPs, and of what the arm asks for."""
    runs = Runs(tmp_path)
    uniform, other = arm("uniform"), arm("other")
    for seed, (base, mine) in enumerate([(0.50, 0.60), (0.52, 0.64)]):
        runs.add(uniform, seed, {50: base - 0.1, 100: base}, full=1000, seconds=10.0)
        runs.add(other, seed, {50: base, 100: mine}, full=2000, seconds=25.0)
    return runs, study(uniform, other)


def numbers(case):
    from paper.results import study_numbers

    found = study_numbers(*case, (0, 1), 20)
    return {one["name"]: one for one in found["arms"]}, found


def test_an_arm_is_paired_with_uniform_by_seed(case):
    found, _ = numbers(case)
    other = found["other"]
    # differences .10 and .12: mean .11, deviation .0141421, half of the interval t s / sqrt(2)
    assert other["difference"]["mean"] == pytest.approx(0.11)
    assert other["difference"]["high"] == pytest.approx(0.11 + T_1 * 0.0141421 / 2**0.5, rel=1e-4)
    assert other["final"] == {
        "mean": pytest.approx(0.62),
        "std": pytest.approx(0.0282843, rel=1e-4),
    }
    # uniform's best is what the arm has at half of its updates, which cost as much as all of those
    assert other["learner_speedup"]["mean"] == pytest.approx(0.5)
    assert other["compute_speedup_full"]["mean"] == pytest.approx(0.0)
    assert other["relative_flops"]["full"] == 2


def test_seconds_are_held_against_flops(case):
    seconds = numbers(case)[0]["other"]["seconds"]
    assert seconds["processor"] == 25
    assert seconds["processor_by_seed"] == [25, 25]
    assert seconds["processor_relative"] == pytest.approx(2.5)
    # two and a half times the seconds for twice the FLOPs
    assert seconds["processor_over_predicted"] == pytest.approx(1.25)
    assert seconds["processor_over_rates"] is None


def test_what_has_not_been_run_is_waited_for_and_not_said_to_be_nothing(case):
    from paper.publish import table

    found, whole = numbers(case)
    assert found["other"]["equal_compute"] is None
    assert whole["waiting"] == [
        {"arm": "other", "for": "equal", "steps": 200},
        {"arm": "other", "for": "sooner", "steps": 50},
    ]
    said = table({"claim": "C0", "paper": {"where": "here", "says": "so"}, "studies": [whole]})
    assert (
        "Not run: uniform at the FLOPs of other (200 updates), ended sooner: other (50 updates)."
    ) in said


def test_the_follow_ups_by_hand(case):
    runs, whole = case
    for seed, (equal, sooner) in enumerate([(0.55, 0.49), (0.57, 0.55)]):
        runs.add(arm("uniform", 200), seed, {100: 0.3, 200: equal}, full=2000)
        runs.add(arm("other", 50), seed, {25: 0.2, 50: sooner}, full=1000, seconds=11.0)
    found, published = numbers((runs, whole))
    other = found["other"]
    assert published["waiting"] == []
    # .60 - .55 and .64 - .57: mean .06, deviation .0141421
    assert other["equal_compute"]["difference"] == {
        "mean": pytest.approx(0.06),
        "std": pytest.approx(0.0141421, rel=1e-4),
        "low": pytest.approx(0.06 - T_1 * 0.0141421 / 2**0.5, rel=1e-4),
        "high": pytest.approx(0.06 + T_1 * 0.0141421 / 2**0.5, rel=1e-4),
    }
    assert other["equal_compute"]["flops_over_arm"] == 1
    # .49 - .50 and .55 - .52, with half of the updates and as many FLOPs
    assert other["sooner"]["difference"]["mean"] == pytest.approx(0.01)
    assert (other["sooner"]["updates"], other["sooner"]["relative_flops"]["full"]) == (0.5, 1)
    assert other["sooner"]["seconds"]["processor_relative"] == pytest.approx(1.1)


def test_epochs_to_a_share_of_what_uniform_ends_at(case):
    from paper.publish import epochs_line
    from paper.results import epochs_to

    runs, whole = case
    half, out_of_reach = epochs_to(runs, whole, whole.others[0], (0, 1), (1.0, 3.0))
    # uniform ends at .50 and .52 after 100 updates; the arm is there after 50
    assert half["mean"] == pytest.approx(2.0)
    assert epochs_line("a", half) == (
        "- a: 100% of uniform's final accuracy in 2.00 ± 0.00 times fewer epochs"
    )
    assert epochs_line("a", out_of_reach).endswith("is not reached with every seed")


def test_budgets_that_determine_no_law_are_said_to():
    from paper.publish import fit_line, fits

    def arms(criterion, *finals):
        return [
            {
                "about": {"criterion": criterion},
                "flops": {"full": full},
                "by_seed": [{"final": final}],
            }
            for full, final in zip((1e12, 4e12, 16e12, 64e12), finals, strict=True)
        ]

    # 0.9 - 0.4 / sqrt(full / 1e12); and as much for every fourfold budget, which tends to nothing.
    found = fits([*arms("a", 0.5, 0.7, 0.8, 0.85), *arms("b", 0.5, 0.55, 0.6, 0.65)])
    assert fit_line("a", found["a"]).startswith("- a: tends to 0.900")
    assert found["b"] is None
    assert fit_line("b", found["b"]) == "- b: these budgets determine no power law"


def test_the_goal_is_at_shares_of_uniforms_updates():
    from paper.arms import Bench
    from paper.claims import goal
    from paper.data import DATA
    from paper.settings import PRESETS

    found = goal(Bench(PRESETS["goal-wide"], DATA["cifar10n-worse"], "test"))
    # of 1,560: 54 % are 842.4, 45 % are 702
    assert [one.steps for one in found.arms] == [1560, 842, 702, 926, 1560, 842]


def test_what_is_paid_once_is_what_was_made_and_what_it_was_made_of(tmp_path):
    from paper.arm import Arm, Made, Places
    from paper.results import seconds_paid_once
    from paper.store import Store, reference_key

    store = Store(Places(tmp_path, tmp_path))
    live = Arm("live", "classact", {}, 12)
    order, table = (Made(kind, live, (kind, "$SOURCE"), shift=1) for kind in ("order", "table"))
    config = live.config(2, store.places)
    folder = store.folder(live, 2)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json())
    spent = {
        live.key(2): [7.0, 3.0],  # it was interrupted
        reference_key(config): [5.0],
        Path(order.path(1)).stem: [2.0],
        Path(table.path(1)).stem: [1.0],
    }
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    for name, seconds in spent.items():
        lines = [line for one in seconds for line in ({"begins": True}, {"processor_seconds": one})]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (sessions / f"{name}.jsonl").write_text(text)

    def once(made):
        return seconds_paid_once(store, Arm("later", "uniform", {}, 12, made=made), (1,))

    assert once(None) == 0.0
    assert once(order) == 7 + 3 + 5 + 2
    assert once(table) == 5 + 1
    with (sessions / f"{reference_key(config)}.jsonl").open("a") as file:
        file.write('{"begins": true}\n')  # and was killed
    assert once(order) is None
    assert once(table) is None
