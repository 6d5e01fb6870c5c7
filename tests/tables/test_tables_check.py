"""Does a table belong to this data and this task?"""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_tables import PREPROCESSING, Labelled, made

from superbatch.errors import DataError
from superbatch.tables import LossTable, check_table, fingerprint
from superbatch.tables.check import (
    check_data,
    check_list,
    preprocessing_of,
    recompute,
    verify_weights,
)
from superbatch.tables.fingerprint import summed
from superbatch.tables.named import read_named, write_names
from superbatch.tasks import Classification
from superbatch.tasks.contrastive import Contrastive


IDS = np.arange(20)
LABELS = IDS % 3


def problem(ids=IDS, labels=LABELS, *, rows=None, task=None):
    """What a run would be trained on."""
    examples = Labelled(ids, labels)
    rows = np.arange(len(ids)) if rows is None else rows
    return SimpleNamespace(examples=examples, rows=rows, task=task or Classification())


@pytest.fixture
def path(tmp_path):
    made(tmp_path / "t.parquet", IDS, IDS / 4, labels=LABELS)
    return tmp_path / "t.parquet"


def test_a_table_of_this_data_is_taken(path):
    check_table(LossTable.open(path), problem())
    check_table(LossTable.open(path), problem(rows=np.array([3, 5])))


def test_the_order_of_the_data_does_not_matter(path):
    shuffled = np.random.default_rng(0).permutation(20)
    check_table(LossTable.open(path), problem(IDS[shuffled], LABELS[shuffled]))


@pytest.mark.parametrize(
    "other",
    [
        problem(labels=(IDS + 1) % 3),  # other labels
        problem(labels=LABELS[::-1].copy()),  # the same labels, of other examples
        problem(ids=IDS + 1),
        problem(ids=IDS[:10], labels=LABELS[:10]),  # the table has examples that the data lacks
    ],
)
def test_a_table_of_other_data_is_refused(path, other):
    with pytest.raises(DataError, match=r"a table of other data: its 20 examples of made have"):
        check_table(LossTable.open(path), other)


def test_examples_without_a_row_are_counted(path):
    more = problem(np.arange(24), np.arange(24) % 3)
    with pytest.raises(DataError, match=r"4 of 24 examples have no loss in .* such as id 20"):
        check_table(LossTable.open(path), more)
    check_table(LossTable.open(path, missing=lambda batch: batch["id"].float()), more)
    more.rows = np.arange(20)  # the others are not trained on
    check_table(LossTable.open(path), more)


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"skipped": 2, "not_finite": 1}, ()),  # which they are shows when they are read
        ({}, (3, 4, 9)),
        ({"skipped": 3}, (3, 4, 9)),
        ({"skipped": 2, "not_finite": 1}, (4, 9)),
    ],
)
def test_what_the_table_left_out_needs_no_row(tmp_path, left_out, broken):
    """Ids 3, 4 and 9 have no row."""
    kept = np.delete(IDS, [3, 4, 9])
    made(tmp_path / "t.parquet", kept, kept / 4, labels=LABELS[kept], **left_out)
    here = problem()
    here.examples.skipped = frozenset(broken)
    table = LossTable.open(tmp_path / "t.parquet")
    check_table(table, here)
    with pytest.raises(DataError, match=r"1 of 2 examples have no loss in .* such as id 4"):
        table({"id": torch.tensor([5, 4])})


@pytest.mark.parametrize(
    ("left_out", "broken", "words"),
    [
        ({"skipped": 2}, (), "3 of 20 examples have no loss"),
        ({}, (3, 9), "1 of 20 examples have no loss in .* such as id 4"),
        ({"skipped": 2}, (3, 9), "1 of 20 examples have no loss in .* such as id 4"),
    ],
)
def test_more_than_the_table_left_out_is_refused(tmp_path, left_out, broken, words):
    kept = np.delete(IDS, [3, 4, 9])
    made(tmp_path / "t.parquet", kept, kept / 4, labels=LABELS[kept], **left_out)
    here = problem()
    here.examples.skipped = frozenset(broken)
    with pytest.raises(DataError, match=words):
        check_table(LossTable.open(tmp_path / "t.parquet"), here)


def test_a_table_of_shorter_captions_is_refused(tmp_path):
    def pairs(context):
        examples = Labelled(IDS, LABELS)
        examples.captions, examples.context = [str(row) for row in IDS], context
        return examples

    made_at_10 = preprocessing_of(pairs(10))
    assert made_at_10 == f"{PREPROCESSING}; captions cut to 10 tokens"
    facts = {"preprocessing": made_at_10, "fingerprint": fingerprint(pairs(10))}
    made(tmp_path / "t.parquet", IDS, IDS / 4, **facts)
    table = LossTable.open(tmp_path / "t.parquet")
    check_table(table, SimpleNamespace(examples=pairs(10), rows=IDS, task=Classification()))
    with pytest.raises(DataError, match=r"cut to 10 tokens' .* captions cut to 16 tokens'; score"):
        check_table(table, SimpleNamespace(examples=pairs(16), rows=IDS, task=Classification()))


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        ({"image_size": 32}, "images of so many pixels a side 32 and is to be used with 8"),
        ({"view": "flip"}, "the view flip and is to be used with plain"),
    ],
)
def test_a_table_made_otherwise_is_refused(tmp_path, made_with, words):
    made(tmp_path / "t.parquet", IDS, IDS / 4, labels=LABELS, **made_with)
    with pytest.raises(DataError, match=words):
        check_table(LossTable.open(tmp_path / "t.parquet"), problem())


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Contrastive("softmax", "dot", 20.0), "act loss cross_entropy and is .* dot"),
        (
            Contrastive("sigmoid", "sigmoid_diagonal"),
            "act loss cross_entropy and is .* sigmoid_dia",
        ),
    ],
)
def test_a_table_of_another_loss_is_refused(path, task, words):
    with pytest.raises(DataError, match=words):
        check_table(LossTable.open(path), problem(task=task))


def test_the_fingerprint_of_parts_is_that_of_the_whole():
    data = Labelled(IDS, LABELS)
    parts = [fingerprint(data, np.array([1, 7, 19])), fingerprint(data, np.delete(IDS, [1, 7, 19]))]
    assert summed(*parts) == fingerprint(data)
    assert len(fingerprint(data)) == 16


def test_captions_count():
    one, other = (SimpleNamespace(ids=np.arange(2), captions=words) for words in ("ab", "ba"))
    assert fingerprint(one) != fingerprint(other)


def test_a_sample_is_computed_again(path):
    table, examples = LossTable.open(path), problem().examples
    settings = {"sample": 12, "batch_size": 5, "device": torch.device("cpu")}
    seen = []

    def exact(batch):
        seen.extend(batch["id"].tolist())
        return batch["id"] / 4 + 1e-4

    count, largest = recompute(table, examples, exact, **settings)
    assert (count, len(set(seen))) == (12, 12)
    assert largest == pytest.approx(1e-4, rel=0.01)
    with pytest.raises(
        DataError, match=r"12 of 12 losses of column 'loss' .* score the data again"
    ):
        recompute(table, examples, lambda batch: batch["id"] / 4 + 1, **settings)
    recompute(table, examples, lambda batch: batch["id"] / 4 + 1, tolerance=2.0, **settings)


def test_losses_of_other_ids_are_found(tmp_path):
    """Ids and losses shuffled against each other: only the model can tell."""
    made(tmp_path / "t.parquet", IDS, np.random.default_rng(0).permutation(IDS / 4), labels=LABELS)
    table, examples = LossTable.open(tmp_path / "t.parquet"), problem().examples
    check_data(table, examples)
    with pytest.raises(
        DataError, match=r"losses of column 'loss' of .* are not those of the model"
    ):
        recompute(
            table,
            examples,
            lambda batch: batch["id"] / 4,
            sample=20,
            batch_size=20,
            device=torch.device("cpu"),
        )


def test_other_weights_are_refused(path):
    table = LossTable.open(path)
    verify_weights(table, "loss")
    with pytest.raises(DataError, match=r"made with the weights loss\.\.\. \(a\) .* has ffff"):
        verify_weights(table, "f" * 64)


def test_a_list_of_other_data_is_refused(tmp_path):
    """A list says of which examples the table was that it was taken from."""
    whole, kept = Labelled(IDS, LABELS), np.delete(IDS, 4)
    other = Labelled(IDS, (LABELS + 1) % 3)
    made(tmp_path / "t.parquet", IDS, IDS / 4, labels=LABELS)
    made(tmp_path / "some.parquet", kept, kept / 4, labels=LABELS[kept], skipped=1)
    for name in ("t", "some"):
        named = read_named(tmp_path / f"{name}.parquet", [None])
        write_names(tmp_path / f"{name}-list.parquet", named.take(np.array([2, 3])))
    check_list(tmp_path / "t-list.parquet", whole)
    with pytest.raises(DataError, match=r"t-list.parquet is a list of other data: it was made of"):
        check_list(tmp_path / "t-list.parquet", other)
    check_list(tmp_path / "some-list.parquet", whole)  # of a part: which one, nothing says
    whole.skipped = other.skipped = frozenset([4])
    check_list(tmp_path / "some-list.parquet", whole)
    with pytest.raises(DataError, match="of other data"):
        check_list(tmp_path / "some-list.parquet", other)
    (tmp_path / "list.txt").write_text("1\n2\n")
    check_list(tmp_path / "list.txt", other)


def test_the_fingerprint_of_texts_is_that_of_the_specification():
    """docs/formats.md, with Python's whole numbers."""

    class Texts:
        ids = np.array([4, 9])
        texts = ("a film", "un \u00e9t\u00e9")
        labels = np.array([1, 0])

    def mixed(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    total = 0
    for example, text, label in zip((4, 9), Texts.texts, (1, 0), strict=True):
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        what = int.from_bytes(digest, "little") + label
        total += mixed(example ^ mixed((what + 0x9E3779B97F4A7C15) % 2**64))
    assert fingerprint(Texts()) == f"{total % 2**64:016x}"
