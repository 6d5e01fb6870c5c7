import json

import pytest
import torch
from torch import nn

from made_texts import write_config
from superbatch.errors import ConfigError
from superbatch.flops import forward_flops
from superbatch.measures import sampled
from superbatch.models.variants import BERTS, parse_bert_name
from superbatch.passes import scoring
from superbatch.tasks import Classification


pytest.importorskip("transformers", reason="models of texts need the extra [text]")

from superbatch.models.bert import build_bert


def built(name, **changes):
    sizes = {"vocabulary": 50, "padding": 0, "context": 8, "classes": 3, "seed": 0}
    return build_bert(name, **sizes | changes)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("bert") / "config.json")


def texts(lengths, context=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 50, (len(lengths), context), generator=generator)
    mask = torch.arange(context) < torch.tensor(lengths)[:, None]
    return torch.where(mask, text, 0), mask


def test_named_sizes_are_those_of_turc_et_al():
    # google-research/bert's table of the released models: L, H and, by the paper, A = H/64 heads
    assert {name: (size.depth, size.width) for name, size in BERTS.items()} == {
        "bert-tiny": (2, 128),
        "bert-mini": (4, 256),
        "bert-small": (4, 512),
        "bert-medium": (8, 512),
        "bert-base": (12, 768),
    }
    assert (BERTS["bert-base"].heads, BERTS["bert-base"].mlp) == (12, 3072)
    assert parse_bert_name("bert-2/128") == BERTS["bert-tiny"]
    assert parse_bert_name("bert-2/32").heads == 1
    assert parse_bert_name("bert-giant") is None


def test_bert_tiny_has_the_published_number_of_parameters():
    # google/bert_uncased_L-2_H-128_A-2: 4.4 M (Turc et al., table 1), here with 2 classes
    model = built("bert-tiny", vocabulary=30_522, classes=2)
    embeddings = (30_522 + 512 + 2) * 128 + 2 * 128
    block = 4 * (128 * 128 + 128) + 2 * (128 * 512) + 512 + 128 + 2 * 2 * 128
    heads = 128 * 128 + 128 + 2 * 128 + 2
    assert sum(p.numel() for p in model.parameters()) == embeddings + 2 * block + heads


def price_by_hand(depth, width, mlp, context, classes):
    """Two FLOPs a multiply-accumulate: Q, K, V and O; scores and their sum; MLP; pooler; head."""
    projections = 4 * 2 * context * width * width
    attention = 2 * 2 * context * context * width
    feed_forward = 2 * 2 * context * width * mlp
    return (
        depth * (projections + attention + feed_forward) + 2 * width * width + 2 * width * classes
    )


@pytest.mark.parametrize("context", [8, 32])
@pytest.mark.parametrize("name", ["bert-tiny", "bert-3/48"])
def test_the_price_is_the_closed_form_of_the_padded_length(name, context):
    size = parse_bert_name(name)
    inputs = (torch.zeros(1, context, dtype=torch.int64), torch.ones(1, context, dtype=torch.bool))
    by_hand = price_by_hand(size.depth, size.width, size.mlp, context, 3)
    assert forward_flops(built(name), inputs) == by_hand


def test_the_price_of_a_configuration_and_of_short_texts(small):
    text, mask = texts([3, 2])
    assert forward_flops(built(small), (text, mask)) == price_by_hand(1, 16, 32, 8, 3)


def test_padding_does_not_count_and_other_rows_do_not_either(small):
    model = built(small).eval()
    text, mask = texts([8, 3, 5])
    with torch.no_grad():
        together = model(text, mask)
        noise = torch.where(mask, text, 49)
        assert torch.allclose(model(noise, mask), together, atol=1e-6)
        alone = torch.cat([model(text[[row]], mask[[row]]) for row in range(3)])
        short = model(text[1:2, :3], mask[1:2, :3])
    assert torch.allclose(alone, together, atol=1e-6)
    assert torch.allclose(short, together[1:2], atol=1e-6)


def test_it_is_transformers_own_model(small):
    model = built(small).eval()
    text, mask = texts([8, 3, 5])
    with torch.no_grad():
        theirs = model.bert(input_ids=text, attention_mask=mask.long()).logits
        assert torch.allclose(model(text, mask), theirs, atol=1e-6)


def test_weights_are_the_seeds_and_nothing_else_is_touched(small):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (built(small, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_dropout_is_on_in_training_and_off_in_scoring(small):
    model = built(small)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.1}
    text, mask = texts([8, 3])
    assert not torch.equal(model(text, mask), model(text, mask))
    with scoring(model):
        assert torch.equal(model(text, mask), model(text, mask))
    assert model.training


def test_the_configuration_decides_the_shape_and_the_data_the_rest(tmp_path):
    path = write_config(tmp_path / "config.json", hidden_dropout_prob=0.0, num_labels=7)
    bert = built(path, padding=4).bert.config
    assert (bert.num_labels, bert.vocab_size, bert.pad_token_id) == (3, 50, 4)
    assert (bert.hidden_dropout_prob, bert.attention_probs_dropout_prob) == (0.0, 0.1)
    bert = built(path, dropout=0.3).bert.config
    assert (bert.hidden_dropout_prob, bert.attention_probs_dropout_prob) == (0.3, 0.3)
    larger = write_config(tmp_path / "larger.json", vocab_size=64)
    assert built(larger).bert.config.vocab_size == 64
    assert built(str(tmp_path)).bert.config.hidden_size == 16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bert-tny", r"no model of texts is called 'bert-tny' \(did you mean bert-tiny"),
        ("mu-300/4", "or the path of a BERT's config.json"),
        ({"vocab_size": 49}, "a vocabulary of 49 tokens and the data needs 50"),
        ({"max_position_embeddings": 7}, "places for 7 tokens and the data needs 8"),
        ({"model_type": "gpt2"}, "no configuration of BERT but of gpt2"),
        ({"num_attention_heads": 3}, "cannot be built by transformers"),
        ("missing.json", "missing.json cannot be read as a configuration of BERT"),
    ],
)
def test_what_cannot_be_built_is_refused(name, said, tmp_path):
    if isinstance(name, dict):
        path = tmp_path / "config.json"
        write_config(path)
        path.write_text(json.dumps(json.loads(path.read_text()) | name))
        name = str(path)
    with pytest.raises(ConfigError, match=said):
        built(name)


def test_dropout_of_the_attention_drops_where_a_measure_asks_for_it(small):
    model, (text, mask) = built(small, dropout=0.4), texts([8, 5, 3, 6])
    batch = {"id": torch.arange(4), "text": text, "mask": mask, "label": torch.zeros(4).long()}
    torch.manual_seed(sum(2 * example + 1 for example in range(4)))
    logits = torch.stack([model.train()(text, mask) for _ in range(3)])
    found = sampled(Classification(inputs=("text", "mask")), model.eval(), batch, 3)
    assert torch.allclose(found, logits.log_softmax(dim=2), atol=1e-5)
