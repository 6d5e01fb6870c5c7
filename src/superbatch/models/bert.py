"""BERT for texts with labels, by transformers: from a name or a configuration, never a download."""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from superbatch.errors import ConfigError
from superbatch.models.build import did_you_mean, seeded
from superbatch.models.variants import BERTS, parse_bert_name


LARGEST_CONTEXT = 512
"""Tokens that models named by their size have places for, as all published BERTs."""


class TextClassifier(nn.Module):
    """transformers' ``BertForSequenceClassification``: texts and masks to logits.

    In train mode with the dropout of its configuration. The mask is given to it with the axes that
    its attention wants: from one of fewer axes it would make its own, looking at the values in it,
    so that an example's last digits would depend on its batch and no price could be had on the
    meta device.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, text: Int[Tensor, "n context"], mask: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n C"]:
        """Logits of token ids, of which those where ``mask`` is false do not count."""
        logits: Tensor = self.bert(input_ids=text, attention_mask=mask[:, None, None, :]).logits
        return logits


def build_bert(
    name: str,
    *,
    vocabulary: int,
    padding: int,
    context: int,
    classes: int,
    seed: int,
    dropout: float = 0.0,
) -> TextClassifier:
    """A new BERT: ``Int[n, context]`` token ids below ``vocabulary`` to ``Float[n, classes]``.

    ``name`` is one of :data:`~superbatch.models.variants.BERTS` ("bert-tiny"), a shape
    ("bert-2/128"), or the path of a BERT's config.json, or of the folder that it is in. ``padding``
    is the number of the padding token. ``dropout`` is BERT's, of hidden states and of attention;
    where it is 0 they have what the configuration says, or else the published 0.1. Weights are
    random, drawn from ``seed`` alone; the global random state is as it was afterwards.

    Raises ``ConfigError`` for a name nobody knows, a configuration that is of no BERT or too small
    for the data, and where transformers is not installed.
    """
    settings = _settings(name, context)
    own = settings.pop("vocab_size", vocabulary)
    for what, has, wanted in (
        ("a vocabulary of", own, vocabulary),
        ("places for", settings["max_position_embeddings"], context),
    ):
        if has < wanted:
            raise ConfigError(
                f"the model {name} has {what} {has} tokens and the data needs {wanted}; "
                "give another model, --data.vocabulary or --data.context"
            )
    if dropout:
        settings |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    transformers = _transformers()
    try:
        config = transformers.BertConfig(
            **settings,
            vocab_size=own,
            pad_token_id=padding,
            num_labels=classes,
            attn_implementation="sdpa",
        )
        with seeded(seed):
            return TextClassifier(transformers.BertForSequenceClassification(config)).train()
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot be built by transformers: {error}") from error


def _settings(name: str, context: int) -> dict[str, Any]:
    """What ``BertConfig`` is made of, at least the places for tokens."""
    size = parse_bert_name(name)
    if size is not None:
        return {
            "hidden_size": size.width,
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.heads,
            "intermediate_size": size.mlp,
            "max_position_embeddings": max(LARGEST_CONTEXT, context),
        }
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if path.suffix != ".json":
        raise ConfigError(
            f"no model of texts is called {name!r}{did_you_mean(name, BERTS)}; a name is one of "
            f"{', '.join(BERTS)}, or bert-DEPTH/WIDTH, or the path of a BERT's config.json"
        )
    try:
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration of BERT: {error}") from error
    if not isinstance(settings, dict) or settings.get("model_type", "bert") != "bert":
        kind = settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__
        raise ConfigError(f"{path} is no configuration of BERT but of {kind}; give another")
    return {"max_position_embeddings": LARGEST_CONTEXT} | {
        field: value for field, value in settings.items() if field not in _DATA_DECIDES
    }


_DATA_DECIDES = ("num_labels", "id2label", "label2id", "pad_token_id", "attn_implementation")


def _transformers() -> Any:
    try:
        import transformers  # slow to import
    except ImportError as error:
        raise ConfigError(
            "models of texts need the transformers package: pip install 'superbatch[text]'"
        ) from error
    return transformers
