"""Why an example was kept or dropped, worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from superbatch.cli import main
from superbatch.cli.explain import words
from superbatch.errors import RunError
from superbatch.report.explain import explain
from superbatch.report.gallery import Seen
from superbatch.report.inclusion import inclusion
from superbatch.report.read import read_run
from superbatch.report.reasons import Case, Circumstances, reason


NAN = np.nan


def write(folder, parts, *, criterion="learnability", record="all", **select):
    """A run whose ``parts`` are ``(first, last)`` to columns, with NaN written as null."""
    (folder / "selection").mkdir(parents=True)
    select = {"criterion": criterion, "temperature": 1.0, "super_batch_size": 4} | select
    config = {"recipe": "made", "select": select, "record": {"selection": record}}
    (folder / "config.json").write_text(json.dumps(config))
    types = {"step": pa.int32(), "id": pa.int64(), "chosen": pa.bool_()}
    for (first, last), columns in parts.items():
        arrays = {
            name: pa.array(values, types.get(name, pa.float32()), from_pandas=True)
            for name, values in columns.items()
        }
        path = folder / "selection" / f"{first:08d}-{last:08d}.parquet"
        pq.write_table(pa.table(arrays), path)
    return read_run(folder)


def one_step(step, scores, chosen, *, ids=None, **losses):
    columns = {
        "step": [step] * len(scores),
        "id": list(range(len(scores))) if ids is None else ids,
        "score": scores,
        "chosen": [bool(c) for c in chosen],
    }
    return columns | {f"loss/{role}": values for role, values in losses.items()}


# --- how likely ------------------------------------------------------------------------------


def test_flat_scores_are_all_as_likely():
    np.testing.assert_allclose(inclusion(np.full(8, 3.7), 2, temperature=0.5), 0.25, rtol=1e-12)


@pytest.mark.parametrize(("size", "temperature"), [(32, 1.0), (16, 0.3)])
def test_probabilities_are_those_of_the_draw(size, temperature):
    """Against 40,000 draws by exponential races, which need no Gumbel noise."""
    random = np.random.default_rng(0)
    scores = random.normal(size=64)
    arrivals = random.exponential(size=(40_000, 64)) / np.exp(scores / temperature)
    first = np.argpartition(arrivals, size, axis=1)[:, :size]
    drawn = np.bincount(first.ravel(), minlength=64) / 40_000
    likely = inclusion(scores, size, temperature=temperature)
    assert likely.sum() == pytest.approx(size, abs=1e-9)
    np.testing.assert_allclose(likely, drawn, atol=0.015)


def test_scores_far_apart_do_not_overflow():
    likely = inclusion(np.array([5000.0, 0.0, -5000.0, NAN, np.inf]), 2, temperature=0.1)
    np.testing.assert_allclose(likely, [1, 1, 0, 0, 0], atol=1e-9)


def test_temperature_0_takes_the_highest_and_ties_share_the_last_places():
    likely = inclusion(np.array([1.0, 3.0, 1.0, 0.0, 1.0]), 2, temperature=0.0)
    np.testing.assert_allclose(likely, [1 / 3, 1, 1 / 3, 0, 1 / 3])


# --- in words --------------------------------------------------------------------------------

STEP = Circumstances(
    criterion="learnability",
    count=128,
    size=64,
    temperature=1.0,
    medians={"loss/online": 1.0, "loss/reference": 0.8},
)


def said(*, kept, rank, online, reference, probability=0.5, step=STEP, **case):
    values = {"loss/online": online, "loss/reference": reference}
    return reason(Case(kept, online - reference, rank, probability, values, **case), step)


@pytest.mark.parametrize(
    ("kept", "rank", "online", "reference", "expected"),
    [
        (
            True,
            3,
            2.1,
            0.3,
            "kept: the online model has not learned it (loss 2.1) and the reference has (0.3)",
        ),
        (
            True,
            9,
            3.0,
            1.2,
            "kept: hard for both, and harder for the online model (loss 3.0) than the reference "
            "(1.2)",
        ),
        (
            False,
            90,
            2.3,
            2.2,
            "dropped (rank 90 of 128): high loss for both (2.3 and 2.2), likely noise, or too hard "
            "for now",
        ),
        (
            False,
            70,
            0.25,
            0.125,
            "dropped (rank 70 of 128): the online model has learned it already (loss 0.25; the "
            "reference 0.12)",
        ),
        (
            False,
            128,
            0.2,
            0.4,
            "dropped (rank 128 of 128): the online model knows it as well as the reference does "
            "(loss 0.2 and 0.4)",
        ),
    ],
)
def test_learnability_in_words(kept, rank, online, reference, expected):
    assert said(kept=kept, rank=rank, online=online, reference=reference) == expected


def test_the_luck_of_the_draw():
    kept = said(kept=True, rank=90, online=0.5, reference=0.2, probability=0.31)
    assert kept.startswith("kept by luck of the draw (rank 90 of 128, probability 0.31): ")
    dropped = said(kept=False, rank=64, online=2.0, reference=0.2, probability=0.74)
    assert dropped.startswith("dropped by luck of the draw (rank 64 of 128, probability 0.74): ")


def other(**changes):
    return Circumstances(**(vars(STEP) | changes))


def test_nothing_is_luck_at_temperature_0_nor_in_company():
    at_0 = said(kept=True, rank=64, online=2.0, reference=0.2, step=other(temperature=0.0))
    assert at_0.startswith("kept (rank 64 of 128): the online")
    joint = said(kept=True, rank=90, online=0.5, reference=0.2, step=other(together=True))
    assert joint.startswith("kept, pairs being chosen together (alone rank 90 of 128): ")


def test_what_is_not_drawn_from_a_bank_waits_there():
    waits = said(kept=False, rank=2, online=2.0, reference=0.2, step=other(waits=True))
    assert waits.startswith("left in the memory bank (rank 2 of 128): ")


@pytest.mark.parametrize(
    ("steps_ago", "when"),
    [(1, "scored 1 step ago"), (3, "scored 3 steps ago"), (None, "scored at an earlier step")],
)
def test_the_memory_bank(steps_ago, when):
    case = Case(True, 0.7, None, None, {}, steps_ago)
    assert reason(case, STEP) == f"kept: it came from the memory bank, {when}"


def test_without_scores_there_is_no_reason_but_the_draw():
    flat = Case(False, 0.0, None, 0.5, {})
    words = reason(flat, other(criterion="uniform"))
    assert words == "dropped by the draw alone: nothing was scored"
    every = reason(Case(True, 0.0, None, 1.0, {}), other(criterion="uniform", count=64))
    assert every == "kept: without selection, all that is drawn is learned from"


@pytest.mark.parametrize("score", [NAN, np.inf, -np.inf])
def test_a_score_that_is_not_finite(score):
    case = Case(False, score, None, 0.0, {"loss/online": np.inf})
    assert reason(case, STEP) == (
        "dropped: its score is not finite, and such scores are never drawn"
    )


def test_one_role_and_measures_other_than_the_loss():
    hard = Case(True, 2.1, 1, 0.9, {"loss/online": 2.1})
    assert reason(hard, STEP) == "kept: the online model finds it hard (loss 2.1)"
    easy = Case(True, -0.3, 1, 0.9, {"loss/reference": 0.3})
    assert reason(easy, STEP) == "kept: the reference finds it easy (loss 0.3)"
    medians = {"gradient_norm/learner": 5.0, "entropy/reference": 0.2}
    mixed = Case(True, 1.0, 1, 0.9, {"gradient_norm/learner": 7.25, "entropy/reference": 0.1})
    assert reason(mixed, other(medians=medians)) == (
        "kept: gradient norm of the learner 7.2 (high), entropy of the reference 0.1 (low)"
    )


# --- run folders -----------------------------------------------------------------------------


def test_a_super_batch_by_hand(tmp_path):
    step = one_step(
        2,
        [0.1, 1.5, NAN, -0.2],
        [0, 1, 0, 1],
        online=[0.2, 1.8, np.inf, 1.0],
        reference=[0.1, 0.3, 0.2, 1.2],
    )
    found = explain(write(tmp_path / "run", {(1, 2): step}))
    assert found.step == 2
    assert [one.example for one in found.examples] == [1, 0, 3, 2]
    assert [one.rank for one in found.examples] == [1, 2, 3, None]
    assert [one.kept for one in found.examples] == [True, False, True, False]
    assert found.circumstances.count == 3
    assert found.circumstances.size == 2
    assert found.circumstances.medians == pytest.approx(
        {"loss/online": 1.0, "loss/reference": 0.25}
    )
    assert sum(one.probability for one in found.examples) == pytest.approx(2)
    assert found.examples[3].probability == 0
    assert found.examples[2].reason.startswith("kept by luck of the draw (rank 3 of 3, ")
    assert found.notes[-1] == "1 of 4 scores are not finite."


def test_an_example_of_the_bank_was_scored_when_it_had_that_score(tmp_path):
    first = one_step(1, [0.5, 0.4, 0.3], [1, 0, 0], online=[1, 1, 1], reference=[0.5, 0.6, 0.7])
    second = one_step(2, [0.9, 0.1], [0, 1], ids=[1, 7], online=[1, 1], reference=[0.1, 0.9])
    third = one_step(
        3,
        [0.2, 0.4, 0.6],
        [0, 1, 1],
        ids=[8, 1, 9],
        online=[1, NAN, NAN],
        reference=[0.8, NAN, NAN],
    )
    first_two = {name: first[name] + second[name] for name in first}
    parts = {(1, 2): first_two, (3, 3): third}
    found = explain(write(tmp_path / "run", parts, bank_super_batches=3), 3)
    by_id = {one.example: one for one in found.examples}
    assert by_id[1].reason == "kept: it came from the memory bank, scored 2 steps ago"
    assert by_id[1].scored_at == 1
    assert by_id[9].reason.endswith("scored at an earlier step")
    assert by_id[9].scored_at is None
    assert by_id[8].rank == 1
    assert all(one.probability is None for one in found.examples)


@pytest.mark.parametrize(
    ("select", "waits"),
    [
        ({}, False),
        ({"bank_examples": None, "samples_per_insert": None}, False),
        ({"bank_examples": 512}, True),
        ({"samples_per_insert": 0.5}, True),
    ],
)
def test_what_a_bank_of_any_size_keeps_is_not_called_dropped(select, waits, tmp_path):
    step = one_step(1, [0.2, 0.4], [0, 1], online=[1, 1], reference=[0.8, 0.6])
    found = explain(write(tmp_path / "run", {(1, 1): step}, **select))
    other = found.examples[1]
    assert (other.example, other.kept) == (0, False)
    assert ("dropped" in other.reason) == (not waits)
    assert (other.probability is None) == waits


@pytest.mark.parametrize(("ranks", "known"), [(1, True), (2, False)])
def test_of_a_choice_by_each_rank_alone_probabilities_are_not_known(ranks, known, tmp_path):
    run = write(tmp_path / "run", {(1, 1): one_step(1, [3.0, 2.0, 1.0, 0.0], [1, 0, 1, 0])})
    config = {**run.config, "ranks": {"selection": "local"}}
    found = explain(replace(run, config=config, environment={"ranks": ranks}))
    assert (found.examples[0].probability is not None) == known
    assert any("--ranks.selection local" in note for note in found.notes) != known


def test_a_run_that_recorded_only_what_it_kept(tmp_path):
    step = one_step(1, [1.5, 0.1], [1, 1], online=[1.8, 0.2], reference=[0.3, 0.1])
    found = explain(write(tmp_path / "run", {(1, 1): step}, record="chosen"))
    assert [one.rank for one in found.examples] == [None, None]
    assert [one.probability for one in found.examples] == [None, None]
    assert found.examples[0].reason.startswith("kept: ")
    assert any("--record.selection all" in note for note in found.notes)


def test_what_was_not_recorded_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(RunError, match=r"--record\.selection none; train again with --r"):
        explain(write(tmp_path / "none", {}, record="none"))
    with pytest.raises(RunError, match="wait for the first"):
        explain(write(tmp_path / "young", {}))
    parts = {(1, 1): one_step(1, [0.0], [1]), (2, 2): one_step(2, [0.0], [1])}
    with pytest.raises(RunError, match=r"steps 1 to 2 chose from, and step 3 is not"):
        explain(write(tmp_path / "short", parts, criterion="uniform"), 3)
    broken = write(tmp_path / "broken", parts, criterion="uniform")
    (tmp_path / "broken" / "selection" / "00000002-00000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="is broken"):
        explain(broken, 2)


# --- the command -----------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    scores = [float(i) / 10 for i in range(30)]
    losses = {"online": [1 + score for score in scores], "reference": [1.0] * 30}
    step = one_step(4, scores, [i % 2 for i in range(30)], **losses)
    write(tmp_path / "run", {(4, 4): step}, super_batch_size=30)
    run = str(tmp_path / "run")
    assert main(["explain", run, "--step", "4", "--top", "2", "--no-data"]) == 0
    text = capsys.readouterr().out
    assert "26 more; --top 0 shows all" in text
    assert text.count("kept") + text.count("dropped") == 4
    assert main(["explain", run, "--id", "29", "--json", "--no-data"]) == 0
    value = json.loads(capsys.readouterr().out)
    (one,) = value["examples"]
    assert (one["id"], one["rank"], one["kept"]) == (29, 1, True)
    assert one["loss/online"] == pytest.approx(3.9)
    assert one["label"] is None
    assert value["kept"] == 15
    assert main(["explain", run, "--json", "--no-data"]) == 0
    assert len(json.loads(capsys.readouterr().out)["examples"]) == 30
    assert main(["explain", run, "--id", "77"]) == 2
    assert "example 77 is not among the 30" in capsys.readouterr().err
    assert main(["explain", run, "--step", "5"]) == 2
    assert main(["explain"]) == 2


def test_labels_come_from_the_data_and_are_left_out_where_it_is_gone(tmp_path, capsys):
    run = write(tmp_path / "run", {(1, 1): one_step(1, [0.0], [1], ids=[3])}, criterion="uniform")
    assert main(["explain", str(run.folder), "--json"]) == 0
    # The fourth of scikit-learn's digits is a three.
    assert json.loads(capsys.readouterr().out)["examples"][0]["label"] == "3"
    config = dict(run.config) | {"data": {"path": str(tmp_path / "gone.parquet")}}
    (run.folder / "config.json").write_text(json.dumps(config))
    assert main(["explain", str(run.folder)]) == 0
    assert "the data could not be opened" in capsys.readouterr().out


def test_labels_and_captions_in_words():
    assert words(Seen(label="cat")) == "cat"
    assert words(Seen(label="cat", truth="cat")) == "cat"
    assert words(Seen(label="cat", truth="dog")) == "cat (truly dog)"
    assert words(Seen(caption="a dog", matched=False)) == "a dog (of another image)"
    assert words(Seen(caption="x" * 50, matched=True)) == "x" * 39 + "…"
