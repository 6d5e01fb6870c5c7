"""Image-text: which caption belongs to which image? ActiveCLIP, ActiveSigLIP and JEST learn it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from superbatch.config import Config
from superbatch.errors import DataError
from superbatch.evaluation import evaluate_retrieval
from superbatch.flops import forward_flops
from superbatch.models.two_tower import build_two_tower
from superbatch.problems import Evaluation
from superbatch.problems.images import check_images, refuse_digits, refuse_no_evaluation
from superbatch.problems.listed import only_listed
from superbatch.problems.weights import is_open_clip, load_checked
from superbatch.seeds import derived_seed
from superbatch.sources.examples import Progress
from superbatch.sources.pairs import UNDECODABLE, PairExamples, open_pairs, split_pairs
from superbatch.sources.reading import batches_of
from superbatch.tasks.contrastive import Contrastive
from superbatch.types import Batch, Role


@dataclass(frozen=True)
class ImageText:
    """Images with captions. See `superbatch.problems.Problem`."""

    config: Config
    examples: PairExamples
    rows: np.ndarray
    evaluation: PairExamples
    evaluation_rows: np.ndarray

    @staticmethod
    def open(config: Config, progress: Progress | None = None) -> "ImageText":
        """Open what the configuration names and split it by image. Errors are ``sources``'s."""
        data = config.data

        def opened(path: str, image_size: int | None, noise: float) -> PairExamples:
            refuse_digits(path)
            return open_pairs(
                path,
                context=data.context,
                image_size=image_size,
                memory_gb=data.memory_gb,
                caption_noise=noise,
                noise_seed=derived_seed(data.seed, "caption noise"),
                progress=progress,
            )

        examples = opened(data.path, data.image_size, data.caption_noise)
        check_images(data, examples.image_shape)
        evaluation = None
        if data.eval_path == data.path and data.caption_noise == 0:
            evaluation = examples
        elif data.eval_path is not None:
            evaluation = opened(data.eval_path, data.image_size or examples.image_shape[-1], 0.0)
        splits = split_pairs(
            examples,
            evaluation_fraction=0.0 if evaluation else data.evaluation_fraction,
            holdout_fraction=data.holdout_fraction,
            seed=derived_seed(data.seed, "splits"),
        )
        rows = splits.holdout if data.part == "holdout" else splits.pool
        refuse_no_evaluation(data, len(evaluation or splits.evaluation))
        if evaluation is None and data.caption_noise:
            raise DataError(
                f"--data.caption-noise {data.caption_noise} moves captions of the part that is "
                "evaluated on as well; name clean pairs to evaluate on with --data.eval-path"
            )
        return ImageText(
            config,
            examples=examples,
            rows=only_listed(data, examples, rows),
            evaluation=evaluation or examples,
            evaluation_rows=np.arange(len(evaluation)) if evaluation else splits.evaluation,
        )

    @property
    def task(self) -> Contrastive:
        """The learn and act losses that the configuration names."""
        settings = self.config.contrastive
        return Contrastive(settings.loss, settings.act, settings.score_scale)

    @property
    def skipped(self) -> int:
        """Broken images of a set that is only evaluated on."""
        return len(self.evaluation.skipped) if self.config.data.eval_path else 0

    @property
    def left_out(self) -> Mapping[str, int]:
        """Images, captions and members of shards, also of a set that is only evaluated on."""
        counts: Counter[str] = Counter()
        for pairs in (self.examples, *((self.evaluation,) if self.config.data.eval_path else ())):
            counts.update(pairs.skipped_pairs)
            counts[f"end of a caption longer than {pairs.context} tokens"] += pairs.cut_captions
        del counts[UNDECODABLE]
        return dict(+counts)

    @property
    def fitting(self) -> Mapping[str, Any]:
        """The size that images are resized to."""
        return {"image_size": self.examples.image_shape[-1]}

    def model(self, role: Role) -> nn.Module:
        """See `Problem.model`."""
        return self._build(getattr(self.config.models, role), role)

    def load(self, path: str, role: Role) -> nn.Module:
        """See `Problem.load`. A folder that open_clip wrote is read too."""
        if is_open_clip(path):
            return self._build(path, role)
        words = {
            "image_size": "pixels a side",
            "context": "tokens a caption",
            "vocabulary": "words in the vocabulary",
        }
        return load_checked(path, self.about(role), words, lambda name: self._build(name, role))

    def about(self, role: Role) -> dict[str, Any]:
        """See `Problem.about`."""
        return {
            "task": self.config.task,
            "model": getattr(self.config.models, role),
            "image_size": self.examples.image_shape[1],
            "context": self.config.data.context,
            "vocabulary": self.examples.vocabulary,
            "loss": self.config.contrastive.loss,
            "recipe": self.config.recipe,
            "steps": self.config.steps,
            "seed": self.config.seed,
            "part": self.config.data.part,
        }

    def forward_flops(self, model: nn.Module) -> int:
        """See `Problem.forward_flops`: both towers."""
        image = torch.empty(1, *self.examples.image_shape, device="meta")
        text = torch.zeros(1, self.config.data.context, dtype=torch.int64, device="meta")
        return forward_flops(model, (image, text))

    def evaluate(self, model: nn.Module, device: torch.device) -> Evaluation:
        """Retrieval both ways."""
        result = evaluate_retrieval(
            model,
            self.evaluation_batches(),
            device=device,
            bf16=self.config.optimise.bf16,
        )
        metrics = result.metrics()
        summary = {name.removeprefix("val/"): value for name, value in metrics.items()}
        return Evaluation(result.examples, metrics, summary)

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every pair to evaluate on, once, in order."""
        return batches_of(self.evaluation, self.evaluation_rows, self.config.record.evaluate_batch)

    def _build(self, name: str, role: Role) -> nn.Module:
        return build_two_tower(
            name,
            image_size=self.examples.image_shape[1],
            context=self.config.data.context,
            vocabulary=self.examples.vocabulary,
            sigmoid=self.config.contrastive.loss == "sigmoid",
            seed=derived_seed(self.config.seed, "weights", role),
        )
