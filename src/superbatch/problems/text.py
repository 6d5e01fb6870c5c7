"""Text: which label does a text have? RHO-LOSS learns it of sentences (SST-2, CoLA)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from superbatch.checks import check_vocabulary
from superbatch.config import Config, Data
from superbatch.flops import forward_flops
from superbatch.models.bert import build_bert
from superbatch.problems import Evaluation
from superbatch.problems.images import refuse_digits
from superbatch.problems.labels import evaluated, parts_of, refuse_reordered
from superbatch.problems.weights import load_checked
from superbatch.seeds import derived_seed
from superbatch.sources.examples import Progress
from superbatch.sources.noise import noisy_labels
from superbatch.sources.reading import batches_of
from superbatch.sources.text_tables import TextColumns
from superbatch.sources.texts import TextExamples, open_texts
from superbatch.sources.wordpieces import PADDING, read_vocabulary
from superbatch.tasks.classification import TEXT, Classification
from superbatch.types import Batch, Role


@dataclass(frozen=True)
class TextClassification:
    """Texts with labels. See `superbatch.problems.Problem`."""

    config: Config
    examples: TextExamples
    rows: np.ndarray
    evaluation: TextExamples
    evaluation_rows: np.ndarray

    @staticmethod
    def open(config: Config, progress: Progress | None = None) -> "TextClassification":
        """Open what the configuration names and split it. Errors are those of ``sources``."""
        data = config.data
        examples, evaluation = open_sets(data, progress)
        rows, evaluation_rows = parts_of(data, examples, evaluation)
        noisy = examples
        if data.label_noise:
            seed = derived_seed(data.seed, "label noise")
            classes = len(examples.class_names)
            labels = noisy_labels(examples.labels, classes, data.label_noise, seed=seed)
            noisy = examples.relabelled(labels)
        return TextClassification(
            config,
            examples=noisy,
            rows=rows,
            evaluation=evaluation or examples,
            evaluation_rows=evaluation_rows,
        )

    @property
    def task(self) -> Classification:
        """Cross-entropy; label smoothing touches the learn loss only."""
        return Classification(self.config.optimise.label_smoothing, inputs=TEXT)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        return self.examples.class_names

    @property
    def skipped(self) -> int:
        """None: see ``left_out``."""
        return 0

    @property
    def left_out(self) -> Mapping[str, int]:
        """Rows, ends of texts and words, also of a set that is only evaluated on."""
        counts = Counter(self.examples.left_out)
        if self.config.data.eval_path:
            counts.update(self.evaluation.left_out)
        return dict(counts)

    @property
    def fitting(self) -> Mapping[str, Any]:
        """Nothing: context and vocabulary are settings already."""
        return {}

    def model(self, role: Role) -> nn.Module:
        """See `Problem.model`."""
        return self._build(getattr(self.config.models, role), role)

    def load(self, path: str, role: Role) -> nn.Module:
        """See `Problem.load`. A header-less file must be of the configured model."""
        words = {
            "classes": "classes",
            "context": "tokens a text",
            "vocabulary": "pieces in the vocabulary",
            "vocabulary_digest": "as the digest of the vocabulary",
        }
        refuse_reordered(path, self.class_names)
        return load_checked(path, self.about(role), words, lambda name: self._build(name, role))

    def about(self, role: Role) -> dict[str, Any]:
        """See `Problem.about`."""
        return {
            "task": self.config.task,
            "model": getattr(self.config.models, role),
            "context": self.config.data.context,
            "vocabulary": len(self.examples.vocabulary),
            "vocabulary_digest": self.examples.vocabulary.digest,
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "recipe": self.config.recipe,
            "steps": self.config.steps,
            "seed": self.config.seed,
            "part": self.config.data.part,
        }

    def forward_flops(self, model: nn.Module) -> int:
        """See `Problem.forward_flops`: of a text padded to the context, as all are."""
        text = torch.zeros(1, self.config.data.context, dtype=torch.int64, device="meta")
        return forward_flops(model, (text, text.bool()))

    def evaluate(self, model: nn.Module, device: torch.device) -> Evaluation:
        """Accuracy, every class and, of two classes, Matthews correlation."""
        batches = self.evaluation_batches()
        return evaluated(self.config, self.task, self.class_names, model, batches, device)

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every example to evaluate on, once, in order."""
        return batches_of(self.evaluation, self.evaluation_rows, self.config.record.evaluate_batch)

    def _build(self, name: str, role: Role) -> nn.Module:
        vocabulary = self.examples.vocabulary
        return build_bert(
            name,
            vocabulary=len(vocabulary),
            padding=vocabulary.numbers[PADDING],
            context=self.config.data.context,
            classes=len(self.class_names),
            seed=derived_seed(self.config.seed, "weights", role),
            dropout=self.config.models.dropout,
        )


def open_sets(data: Data, progress: Progress | None) -> tuple[TextExamples, TextExamples | None]:
    """What is trained on, and the set that is only evaluated on where there is one."""
    refuse_digits(data.path, "texts with labels", "a .tsv, .csv or .parquet file")
    vocabulary = read_vocabulary(check_vocabulary(data))
    examples = open_texts(
        data.path,
        vocabulary,
        context=data.context,
        columns=TextColumns(data.text, data.label, data.truth),
        progress=progress,
    )
    if data.eval_path is None:
        return examples, None
    if (data.eval_path, data.eval_label) == (data.path, data.label):
        return examples, examples
    evaluation = open_texts(
        data.eval_path,
        vocabulary,
        context=data.context,
        columns=TextColumns(data.text, data.eval_label),
        class_names=examples.class_names,
    )
    return examples, evaluation
