import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_texts import VOCABULARY
from superbatch.errors import DataError
from superbatch.sources.stream import Readable
from superbatch.sources.text_tables import TextColumns
from superbatch.sources.texts import open_texts
from superbatch.sources.wordpieces import WordPieces, read_vocabulary


pytest.importorskip("tokenizers", reason="texts need the extra [text]")

PIECES = WordPieces(tuple(VOCABULARY))
NUMBER = {piece: number for number, piece in enumerate(VOCABULARY)}
ROWS = [("a good film", 1), ("a dull story", 0), ("fine", 1)]


def opened(path, *, context=6, text="sentence", label="label", truth=None, **options):
    columns = TextColumns(text, label, truth)
    return open_texts(str(path), PIECES, context=context, columns=columns, **options)


def lines(*rows, separator="\t"):
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def read_all(examples):
    return {name: field.tolist() for name, field in examples.read(np.arange(len(examples))).items()}


WHOLE = {
    "id": [0, 1, 2],
    "label": [1, 0, 1],
    "text": [
        [2, NUMBER["a"], NUMBER["good"], NUMBER["film"], 3, 0],
        [2, NUMBER["a"], NUMBER["dull"], NUMBER["story"], 3, 0],
        [2, NUMBER["fine"], 3, 0, 0, 0],
    ],
    "mask": [[True] * 5 + [False], [True] * 5 + [False], [True] * 3 + [False] * 3],
}


def test_every_kind_of_table_gives_the_same_examples(tmp_path):
    text = lines(("sentence", "label"), *ROWS)
    (tmp_path / "a.tsv").write_text(text)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "zipped.tsv").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "windows.tsv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "a.csv").write_text(lines(("label", "sentence"), *((b, a) for a, b in ROWS),
                                          separator=","))  # fmt: skip
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    table = pa.table({"sentence": [a for a, _ in ROWS], "label": [b for _, b in ROWS]})
    pq.write_table(table, tmp_path / "a.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    prints = set()
    for path in files:
        examples = opened(path)
        assert isinstance(examples, Readable)
        assert read_all(examples) == WHOLE, path
        assert (list(examples.texts), examples.left_out) == ([a for a, _ in ROWS], {})
        prints.add(examples.fingerprint)
    assert len(prints) == 1


def test_columns_of_a_table_without_a_header_are_numbers(tmp_path):
    path = tmp_path / "cola.tsv"
    path.write_text(lines(*(("src", b, "", a) for a, b in ROWS)))
    assert read_all(opened(path, text="3", label="1")) == WHOLE


def test_quotation_marks_quote_in_csv_and_are_characters_in_tsv(tmp_path):
    (tmp_path / "a.csv").write_text('sentence,label\n"a ""good"", long\nfilm",1\nbad,0\n')
    (tmp_path / "a.tsv").write_text('sentence\tlabel\n"good\t1\nbad" one\t0\n')
    assert list(opened(tmp_path / "a.csv").texts) == ['a "good", long\nfilm', "bad"]
    assert list(opened(tmp_path / "a.tsv").texts) == ['"good', 'bad" one']


def test_labels_that_are_words_name_the_classes_in_order(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lines(("sentence", "label"), ("good", "pos"), ("bad", "neg"), ("fine", "pos")))
    examples = opened(path)
    assert (examples.class_names, examples.labels.tolist()) == (("neg", "pos"), [1, 0, 1])
    # a set with fewer classes counts as the one that was read before
    few = tmp_path / "few.tsv"
    few.write_text(lines(("sentence", "label"), ("good", "pos")))
    assert opened(few, class_names=examples.class_names).labels.tolist() == [1]
    few.write_text(lines(("sentence", "label"), ("good", "other")))
    with pytest.raises(DataError, match="label 'other', and the classes that are learned are neg"):
        opened(few, class_names=examples.class_names)


def test_a_hub_file_names_its_classes(tmp_path):
    features = {"label": {"names": ["negative", "positive"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"idx": [5, 6], "sentence": ["bad", "good"], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    examples = opened(tmp_path / "a.parquet")
    assert examples.class_names == ("negative", "positive")
    assert examples.ids.tolist() == [0, 1]
    with pytest.raises(DataError, match="'positive' is number 1 in "):
        opened(tmp_path / "a.parquet", class_names=("positive", "negative"))


def test_an_id_column_names_the_examples(tmp_path):
    pq.write_table(
        pa.table({"id": [7, 9], "sentence": ["bad", "good"], "label": [0, 1]}),
        tmp_path / "a.parquet",
    )
    (tmp_path / "a.tsv").write_text(
        lines(("id", "sentence", "label"), (7, "bad", 0), (9, "fine", 1))
    )
    (tmp_path / "b.tsv").write_text(
        lines(("id", "sentence", "label"), ("x", "bad", 0), (9, "a", 1))
    )
    assert opened(tmp_path / "a.parquet").ids.tolist() == [7, 9]
    assert opened(tmp_path / "a.tsv").ids.tolist() == [7, 9]
    assert opened(tmp_path / "b.tsv").ids.tolist() == [0, 1]


def test_unusable_rows_are_left_out_counted_and_keep_their_numbers(tmp_path):
    good = [("a good film", 1)] * 800
    rows = [
        *good,
        ("", 1),
        ("  ", 0),
        ("\u200b", 0),
        ("bad", ""),
        ("bad", -1),
        ("bad",),
        ("last", 0),
    ]
    path = tmp_path / "a.tsv"
    content = lines(("sentence", "label"), *rows).encode() + b"\xff\xfe bad\t0\n"
    path.write_bytes(content)
    examples = opened(path, context=4)
    assert examples.ids.tolist() == [*range(800), 806]
    assert examples.left_out == {
        "row without a text": 3,
        "row without a label": 2,
        "row of more or fewer fields than the first": 1,
        "text that is not UTF-8": 1,
        "end of a text longer than 4 tokens": 800,
        "word that the vocabulary lacks": 1,
    }
    assert examples.skipped == frozenset()
    path.write_bytes(content.replace(b"a good film\t1\n", b"", 200))
    with pytest.raises(DataError, match=r"7 of 608 rows of .* cannot be used \(3 x row without"):
        opened(path)


def test_nulls_of_parquet_are_no_texts(tmp_path):
    texts = ["good"] * 300 + [None, "bad"]
    labels = [1] * 301 + [None]
    pq.write_table(pa.table({"sentence": texts, "label": labels}), tmp_path / "a.parquet")
    examples = opened(tmp_path / "a.parquet")
    assert examples.left_out == {"row without a text": 1, "row without a label": 1}
    assert len(examples) == 300


def test_wrong_labels_keep_the_truth(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lines(("sentence", "label"), *ROWS))
    examples = opened(path)
    noisy = examples.relabelled(np.array([0, 0, 1]))
    assert read_all(noisy) == WHOLE | {"label": [0, 0, 1], "truth": [1, 0, 1]}
    assert noisy.fingerprint != examples.fingerprint


def test_a_truth_column_is_read_with_the_same_classes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(
        lines(("sentence", "label", "true"), ("good", "neg", "pos"), ("bad", "neg", "neg"))
    )
    batch = read_all(opened(path, truth="true"))
    assert (batch["label"], batch["truth"]) == ([0, 0], [1, 0])


def test_the_fingerprint_tells_texts_labels_contexts_and_vocabularies_apart(tmp_path):
    prints = []
    for rows in (ROWS, [("a bad film", 1), *ROWS[1:]], [("a good film", 0), *ROWS[1:]]):
        (tmp_path / "a.tsv").write_text(lines(("sentence", "label"), *rows))
        prints.append(opened(tmp_path / "a.tsv").fingerprint)
    prints.append(opened(tmp_path / "a.tsv", context=7).fingerprint)
    other = WordPieces((*VOCABULARY, "more"))
    columns = TextColumns("sentence", "label")
    prints.append(
        open_texts(str(tmp_path / "a.tsv"), other, context=6, columns=columns).fingerprint
    )
    assert len(set(prints)) == 5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"", "is empty: there is not one line"),
        ("a.tsv", b"sentence\tlabel\n", "there is not one example"),
        ("a.tsv", b"sentences\tlabel\na\t1\n", "no column 'sentence' .* did you mean 'sentences'"),
        ("a.tsv.gz", gzip.compress(b"sentence\tlabel\na\t1\n", mtime=0)[:-12], "cannot be read"),
        ("a.csv", b'sentence,label\n"a,1\n', "1 of 1 rows|cannot be read"),
        ("a.parquet", b"PAR1", "is not a parquet file"),
        ("a.txt", b"a", "is no table of texts"),
        ("b.tsv", None, "no such file or folder: .*b.tsv"),
    ],
)
def test_what_is_no_table_of_texts_is_refused(name, content, said, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        opened(path)


def test_columns_of_another_kind_are_refused(tmp_path):
    pq.write_table(pa.table({"sentence": [1, 2], "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'sentence' of .* holds int64 and not texts"):
        opened(tmp_path / "a.parquet")
    pq.write_table(pa.table({"sentence": ["a", "b"], "label": [0.5, 1.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"'label' of .* holds double and not numbers or texts"):
        opened(tmp_path / "b.parquet")


def test_the_real_sentences_are_all_there(real_data):
    folder = real_data / "glue_text"
    pieces = read_vocabulary(str(real_data / "tokenizers" / "bert-base-uncased-vocab.txt"))

    def counted(name, text, label, context):
        columns = TextColumns(text, label)
        examples = open_texts(str(folder / name), pieces, context=context, columns=columns)
        return np.bincount(examples.labels).tolist(), examples.left_out

    # GLUE's own counts; README of the data
    assert counted("cola_train.tsv.gz", "3", "1", 64) == ([2528, 6023], {})
    assert counted("cola_dev.tsv.gz", "3", "1", 64) == ([322, 721], {})
    said, left_out = counted("sst2_dev.tsv.gz", "sentence", "label", 40)
    assert (said, left_out) == ([428, 444], {"end of a text longer than 40 tokens": 84})
