import numpy as np
import pytest

from superbatch.errors import DataError
from superbatch.sources.wordpieces import WordPieces, read_vocabulary


pytest.importorskip("tokenizers", reason="texts need the extra [text]")

PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##ly", "runn", "##ing"),
    *("want", "##want", "##ed", ",", "caf", "##e", "o", "'", "clock", "a", "[", "]", "sep"),
)


def tokens(text, pieces=PIECES):
    return WordPieces(pieces).encoded([text]).values.tolist()


def named(text, pieces=PIECES):
    return [pieces[token] for token in tokens(text, pieces)]


def test_words_are_cut_into_the_longest_pieces_from_the_left():
    # the first is the example of google-research/bert's own tokenization_test.py
    assert named("UNwant\u00e9d,running") == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert named("unaffable") == ["un", "##aff", "##able"]
    assert named("wanted, running") == ["want", "##ed", ",", "runn", "##ing"]
    assert tokens("unaffably") == [1]  # "##ab..." has no piece: the whole word is unknown
    assert tokens("zebra a") == [1, 19]


def test_case_and_accents_go_without_a_cased_piece():
    assert named("CAF\u00c9") == ["caf", "##e"]
    assert named("O'CLOCK") == ["o", "'", "clock"]


def test_a_cased_vocabulary_keeps_both():
    pieces = (*PIECES, "Caf", "##\u00e9")
    assert WordPieces(pieces).cased
    assert named("Caf\u00e9", pieces) == ["Caf", "##\u00e9"]
    assert tokens("CAF\u00c9", pieces) == [1]


def test_no_text_can_end_itself():
    assert named("a [SEP]") == ["a", "[", "sep", "]"]


def test_texts_are_framed_padded_cut_and_masked():
    cut = WordPieces(PIECES).encoded(["unaffable", "", "a a , a a"])
    rows = np.array([2, 0, 1])
    assert cut.text(rows, 5).tolist() == [[2, 19, 19, 13, 3], [2, 4, 5, 6, 3], [2, 3, 0, 0, 0]]
    assert cut.mask(rows, 5).sum(dim=1).tolist() == [5, 5, 2]
    assert cut.mask(rows, 6).tolist()[2] == [True, True, False, False, False, False]
    assert cut.longer_than(5) == 1
    assert cut.take(np.array([2, 2])).text(np.array([1]), 7).tolist() == [
        [2, 19, 19, 13, 19, 19, 3]
    ]


def test_padding_is_where_the_vocabulary_says():
    pieces = ("a", "[UNK]", "[CLS]", "[SEP]", "[PAD]")
    assert WordPieces(pieces).encoded(["a"]).text(np.array([0]), 5).tolist() == [[2, 0, 3, 4, 4]]


def test_large_vocabularies_keep_their_numbers():
    pieces = (*PIECES, *(f"w{number}" for number in range(70_000)))
    assert tokens("w69999", pieces) == [len(PIECES) + 69_999]


def test_transformers_own_tokenizer_says_the_same(real_data):
    transformers = pytest.importorskip("transformers", reason="needs the extra [text]")
    path = real_data / "tokenizers" / "bert-base-uncased-vocab.txt"
    ours = read_vocabulary(str(path))
    assert (len(ours), ours.cased) == (30_522, False)
    theirs = transformers.BertTokenizerFast(vocab=str(path))
    texts = [
        "Our friends won't buy this analysis, let alone the next one we propose.",
        "a gob of drivel so sickly sweet , rancid cr\u00e8me br\u00fbl\u00e9e",
        "\u5317\u4eac is Beijing\u2019s name \u2014 $3.50\t(na\u00efve)",
        "supercalifragilisticexpialidocious",
    ]
    wanted = theirs(texts, padding="max_length", truncation=True, max_length=16)
    cut = ours.encoded(texts)
    rows = np.arange(len(texts))
    assert cut.text(rows, 16).tolist() == wanted["input_ids"]
    assert cut.mask(rows, 16).int().tolist() == wanted["attention_mask"]


def test_a_vocabulary_is_one_piece_a_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(PIECES).encode() + b"\r\n")
    assert read_vocabulary(str(path)).pieces == PIECES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[PAD]\n[UNK]\nthe\n", r"no \[CLS\] and no \[SEP\] among its 3 lines"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "the piece 'a' 2 times"),
        (b"\xff\xfe", "it is not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_vocabulary_is_refused(content, said, tmp_path):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_vocabulary(str(path))
