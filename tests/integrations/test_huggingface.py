"""Hugging Face's own Trainer, with selection in it."""

import json

import pytest
import torch
from small_parts import digits, example, learned, same_state, same_weights, selector
from torch.nn import functional
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from superbatch.errors import CheckpointError
from superbatch.integrations.huggingface import SelectingTrainer


logging.disable_progress_bar()
# Its dataloaders pin memory for a device that is not there.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")


def bert(seed, dropout=0.1):
    """Twelve thousand weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, num_labels=10,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def losses(model, batch):
    said = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return functional.cross_entropy(said.logits, batch["labels"], reduction="none")


def examples(count):
    """Sentences of the first pixels of digits, of four to eight words."""
    images, labels, ids = digits(count).tensors
    words = ((images[:, 0, 3] + 1) * 8).long()
    return [
        {"input_ids": word[: 4 + int(i) % 5], "labels": label, "id": i}
        for word, label, i in zip(words, labels, ids, strict=True)
    ]


def collate(rows):
    """Padded, in the mapping that tokenizers give, which is not a dict."""
    padded = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return BatchEncoding(
        {
            "input_ids": padded,
            "attention_mask": (padded != 0).long(),
            "labels": torch.stack([row["labels"] for row in rows]),
        }
    )


class Observed:
    """Writes down what reaches the step."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.append(loss.item())
        self.items.append(int(num_items_in_batch))
        self.rows.append(inputs["input_ids"].tolist())
        return loss


class Plain(Observed, Trainer):
    pass


class Selected(Observed, SelectingTrainer):
    pass


def trainer(folder, filter_ratio=None, dropout=0.1, callbacks=(), **settings):
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=16, num_train_epochs=2,
        learning_rate=1e-2, logging_steps=1, save_steps=1, report_to=[], seed=5, use_cpu=True,
        disable_tqdm=True,
        include_num_input_tokens_seen="all", **settings,
    )  # fmt: skip
    others = {"model": bert(0, dropout), "args": arguments, "train_dataset": examples(48),
              "data_collator": collate, "callbacks": list(callbacks)}  # fmt: skip
    if filter_ratio is None:
        found = Plain(**others)
    else:
        models = {"online": bert(1), "reference": bert(2)}
        found = Selected(**others, selector=selector(filter_ratio, losses, **models))
    found.losses, found.rows, found.items = [], [], []
    return found


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Half of each super-batch kept, a checkpoint after every step."""
    found = trainer(tmp_path_factory.mktemp("half"), 0.5)
    found.train()
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_kept_is_the_untouched_trainer(tmp_path, accumulate):
    settings = {"gradient_accumulation_steps": accumulate, "save_strategy": "no"}
    plain = trainer(tmp_path / "plain", **settings)
    metrics = plain.train().metrics
    kept = trainer(tmp_path / "kept", 0.0, **settings)
    assert kept.train().metrics.keys() == metrics.keys()
    assert kept.losses == plain.losses
    assert same_weights(kept.model, plain.model)
    assert kept.state.num_input_tokens_seen == plain.state.num_input_tokens_seen


def test_half_kept_is_counted_and_logged(half):
    assert [len(rows) for rows in half.rows] == [8] * 6
    assert half.state.global_step == 6
    history = [row for row in half.state.log_history if "loss" in row]
    assert [row["selection/seen"] for row in history] == [16, 32, 48, 64, 80, 96]
    assert [row["selection/kept"] for row in history] == [8, 16, 24, 32, 40, 48]
    assert half.state.num_input_tokens_seen == sum(len(r) for rows in half.rows for r in rows)
    assert learned(half.selector) == 6


@pytest.mark.parametrize("step", [2, 3, True])
def test_resumes_to_the_same_picks_and_weights(half, tmp_path, step):
    """In the middle of an epoch, at its end, and from the last there is."""
    found = trainer(tmp_path, 0.5)
    if step is True:
        found.args.output_dir = half.args.output_dir
        found.args.num_train_epochs = 3
        found.train(resume_from_checkpoint=True)
        assert found.state.global_step == 9
        assert found.selector.metrics["seen"] == 144
        return
    found.train(resume_from_checkpoint=f"{half.args.output_dir}/checkpoint-{step}")
    assert found.rows == half.rows[step:]
    assert found.losses == half.losses[step:]
    assert same_weights(found.model, half.model)
    assert same_state(found.selector.state_dict(), half.selector.state_dict())
    assert found.selector.metrics["seen"] == 96


class Killed(TrainerCallback):
    """As a kill at step 2, once the trainer has put a checkpoint in the place of the one before."""

    def on_save(self, args, state, control, **more):
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_a_kill_between_checkpoints_leaves_one_to_go_on_from(half, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, 0.5, callbacks=[Killed()], save_total_limit=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    found = trainer(tmp_path, 0.5)
    found.train(resume_from_checkpoint=True)
    assert found.rows == half.rows[2:]
    assert found.losses == half.losses[2:]


def test_accumulated_losses_are_of_the_kept_rows(tmp_path):
    """The trainer divides by the rows of the update: 16 of the 32 that were scored."""
    found = trainer(tmp_path, 0.5, gradient_accumulation_steps=2, save_strategy="no", max_steps=1)
    found.train()
    assert [len(rows) for rows in found.rows] == [8, 8]
    assert found.items == [16, 16]
    assert learned(found.selector) == 2


def test_a_checkpoint_without_selection_is_refused(tmp_path):
    plain = trainer(tmp_path, max_steps=1)
    plain.train()
    assert json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    with pytest.raises(CheckpointError, match=r"selector\.pt is not there"):
        trainer(tmp_path, 0.5).train(resume_from_checkpoint=True)


def test_the_example_runs(tmp_path):
    metrics = example("huggingface_trainer")(str(tmp_path), use_cpu=True, save_strategy="no")
    assert (metrics["seen"], metrics["kept"]) == (2594, 1298)
