import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import write_rich_run, write_run

from superbatch.errors import RunError
from superbatch.report import selection
from superbatch.report.classes import Labels, class_balance, class_shares
from superbatch.report.read import read_run
from superbatch.report.selection import NEVER, Choices, read_choices


def write_part(folder, name, rows, **losses):
    """``rows``: (step, id, score, chosen)."""
    (folder / "selection").mkdir(exist_ok=True)
    step, example, score, chosen = zip(*rows, strict=True)
    columns = {
        "step": pa.array(step, pa.int32()),
        "id": pa.array(example, pa.int64()),
        "score": pa.array(score, pa.float32()),
        "chosen": pa.array(chosen, pa.bool_()),
    }
    columns |= {f"loss/{role}": pa.array(values, pa.float32()) for role, values in losses.items()}
    pq.write_table(pa.table(columns), folder / "selection" / f"{name}.parquet")


@pytest.fixture
def folder(tmp_path):
    """Ids 7, 5 and 9 over two steps in two parts; 9 is scored once, with no finite score."""
    folder = write_run(tmp_path / "run", {1: 0.1, 2: 0.2})
    write_part(
        folder, "00000001-00000001", [(1, 7, 1.0, True), (1, 5, 3.0, False)], online=[2.0, 4.0]
    )
    write_part(
        folder,
        "00000002-00000002",
        [(2, 7, 5.0, True), (2, 5, 5.0, True), (2, 9, float("nan"), False)],
        online=[6.0, 6.0, float("inf")],
        reference=[1.0, 1.0, 1.0],
    )
    return folder


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_choices_add_up_by_hand_however_they_are_read(folder, monkeypatch, chunk):
    monkeypatch.setattr(selection, "CHUNK", chunk)
    choices = read_choices(read_run(folder))
    assert choices.ids.tolist() == [5, 7, 9]
    assert choices.seen.tolist() == [2, 2, 1]
    assert choices.chosen.tolist() == [1, 2, 0]
    assert choices.first_chosen.tolist() == [2, 1, NEVER]
    assert choices.last_step == 2
    np.testing.assert_allclose(choices.means["score"], [4.0, 3.0, np.nan])
    # Step 1: scores 1 and 3 are -1 and +1 deviations from 2; step 2 has equal scores, so 0.
    np.testing.assert_allclose(choices.means["wish"], [0.5, -0.5, np.nan])
    np.testing.assert_allclose(choices.means["loss/online"], [5.0, 4.0, np.nan])
    np.testing.assert_allclose(choices.means["loss/reference"], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(
        choices.unique_learned(np.array([0.0, 1, 2, 3])), [0, 1, 2, np.nan]
    )


def test_a_run_without_selection_files_has_no_choices(tmp_path):
    assert read_choices(read_run(write_run(tmp_path / "run", {1: 0.1}))) is None


def test_the_wish_is_in_deviations_of_the_step(tmp_path):
    # 0, 0 and 3 have the mean 1 and the deviation sqrt((1 + 1 + 4) / 3) = sqrt(2).
    folder = write_run(tmp_path / "run", {1: 0.1})
    write_part(folder, "1-1", [(1, 5, 0.0, False), (1, 6, 0.0, False), (1, 7, 3.0, True)])
    wish = read_choices(read_run(folder)).means["wish"]
    np.testing.assert_allclose(wish, [-(0.5**0.5), -(0.5**0.5), 2**0.5])


def test_an_example_that_the_bank_gives_later_was_scored_once(tmp_path):
    folder = write_run(tmp_path / "run", {1: 0.1, 2: 0.2})
    rows = [(1, 7, 1.0, False), (1, 5, 3.0, True), (2, 7, 1.0, True), (2, 5, 2.0, False)]
    write_part(folder, "1-2", rows, online=[1.0, 1.0, float("nan"), 1.0])
    choices = read_choices(read_run(folder))
    assert choices.seen.tolist() == [2, 1]
    assert choices.chosen.tolist() == [1, 1]
    assert choices.first_chosen.tolist() == [1, 2]
    # Step 2 scored one example only: it has no deviation from itself.
    np.testing.assert_allclose(choices.means["wish"], [0.5, -1.0])


def test_a_part_that_is_being_written_does_not_count(folder):
    (folder / "selection" / ".00000003-00000003.parquet.x1").write_bytes(b"PAR1")
    (folder / "selection" / ".half.parquet").write_bytes(b"PAR1")
    assert read_choices(read_run(folder)).last_step == 2


def test_a_broken_part_is_refused_by_name(folder):
    (folder / "selection" / "00000003-00000003.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"00000003-00000003\.parquet is broken"):
        read_choices(read_run(folder))


def test_a_part_without_a_column_is_refused_by_both_names(folder):
    pq.write_table(
        pa.table({"id": [1], "step": [1], "score": [0.5]}), folder / "selection/3.parquet"
    )
    with pytest.raises(RunError, match=r"3\.parquet has no column 'chosen'"):
        read_choices(read_run(folder))


def choices_of(chosen):
    count = len(chosen)
    ids, seen = np.arange(count), np.full(count, 9)
    return Choices(ids, seen, np.array(chosen), np.zeros(count, np.int64), 1, {})


def test_the_histogram_of_times_chosen():
    assert choices_of([0, 0, 1, 3]).histogram() == [("0", 2), ("1", 1), ("2", 0), ("3", 1)]
    # 25 times in 12 bins: three to a bin, the last of 25 to 27.
    wide = choices_of([0, 1, 3, 4, 25]).histogram()
    assert wide[:3] == [("0", 1), ("1-3", 2), ("4-6", 1)]
    assert wide[-1] == ("25-27", 1)
    assert choices_of([0, 0]).histogram() == [("0", 2), ("1", 0)]


LABELS = Labels(np.array([5, 7, 9]), np.array([0, 1, 1]), ("cat", "dog"))


def test_class_shares_by_hand(folder):
    # Scored: cat 2, dog 2 + 1; chosen: cat 1, dog 2.
    dog, cat = class_shares(read_choices(read_run(folder)), LABELS)
    assert (dog.name, dog.scored, dog.chosen) == ("dog", 0.6, pytest.approx(2 / 3))
    assert (cat.name, cat.scored, cat.chosen) == ("cat", 0.4, pytest.approx(1 / 3))
    assert dog.ratio == pytest.approx(10 / 9)


def test_class_balance_counts_how_many_classes_are_as_mixed(folder):
    # Step 1 chose one dog: one class. Step 2 a cat and a dog: two.
    steps, classes = class_balance(read_run(folder), LABELS, points=2)
    assert steps == [1, 2]
    assert classes == pytest.approx([1, 2])


def test_labels_are_found_for_known_ids_only():
    labels, known = LABELS.of(np.array([9, 6, 5, 100]))
    assert labels.tolist() == [1, 0]
    assert known.tolist() == [0, 2]


def test_the_made_runs_have_what_training_writes(tmp_path):
    run = read_run(write_rich_run(tmp_path / "run", recipe="classact", seed=0))
    choices = read_choices(run)
    assert choices.seen.sum() == 400 * 64
    assert choices.chosen.sum() == 400 * 32
