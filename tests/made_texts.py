"""A tiny set of texts whose label two words decide, and a vocabulary for it, made on the spot."""

import json

import numpy as np


WORDS = (
    *("the", "film", "was", "a", "very", "long", "and", "good", "bad"),
    *("fine", "dull", "story", "about", "one", "man", "who", "went", "home"),
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##ly", "##er", ".", ","]


def write_vocabulary(path, pieces=VOCABULARY):
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(path)


def sentences(count, seed=0):
    """Texts with the label 1 where they say good or fine, 0 where they say bad or dull."""
    random = np.random.default_rng(seed)
    others = [word for word in WORDS if word not in ("good", "fine", "bad", "dull")]
    labels = random.integers(0, 2, size=count)
    texts = []
    for label in labels:
        words = random.choice(others, size=random.integers(3, 7)).tolist()
        words.insert(random.integers(0, len(words)), str(random.choice(KEYWORDS[label])))
        texts.append(" ".join(words))
    return texts, labels.tolist()


KEYWORDS = (("bad", "dull"), ("good", "fine"))


def write_tsv(path, texts, labels, header="sentence\tlabel"):
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def write_config(path, width=16, depth=1, **settings):
    """A BERT far smaller than any with a name."""
    shape = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 32,
    }
    path.write_text(json.dumps({"model_type": "bert", **shape, **settings}))
    return str(path)
