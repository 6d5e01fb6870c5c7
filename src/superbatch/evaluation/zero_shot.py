"""Zero-shot classification: the class whose name, put in sentences, is most like the image."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from superbatch.errors import DataError
from superbatch.evaluation.classification import evaluate_classification
from superbatch.evaluation.embeddings import in_colour, text_embeddings
from superbatch.types import Batch


Tokenizer = Callable[[list[str]], Int64[Tensor, "n context"]]
"""From texts to tokens, such as open_clip's."""

PLACE = re.compile(r"\{c?\}")
"""Where a template has the name."""

_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Prompts:
    """Names of classes, one for each label, and sentences to put each of them in.

    Without names the data's own are meant.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]

    def for_classes(self, class_names: Sequence[str]) -> "Prompts":
        """The prompts for data with these classes.

        Where each of them is among the names, in their order: a list of 1,000 names serves data
        with 200 of them. Else the names stand for them one by one. Raises ``DataError`` where
        neither can be.
        """
        unknown = sorted(set(class_names) - set(self.names))
        if not self.names or not unknown:
            return replace(self, names=tuple(class_names))
        if len(class_names) == len(self.names):
            return self
        raise DataError(
            f"the prompts name {len(self.names)} classes and the data has {len(class_names)}, "
            f"{len(unknown)} of which they do not name, such as {unknown[0]!r}; give one name for "
            "each label, or no names, to take the data's own"
        )


def read_prompts(path: Path | str, *, templates: str | None = None) -> Prompts:
    """The prompts in a JSON file: an object of lists of texts.

    ``templates`` is the key of the sentences, without it the first key with "template" in it. Each
    has ``{}`` or ``{c}`` where the name goes. The names are the list whose key ends in "names",
    where there is one. Raises ``DataError`` for whatever is missing or of another form.
    """
    lists = _read_object(Path(path))
    key = templates or next((key for key in lists if "template" in key), "templates")
    if key not in lists:
        raise DataError(f"{path} has no list {key!r} of sentences; it has {', '.join(lists)}")
    sentences = _texts(path, key, lists[key])
    for sentence in sentences:
        if not PLACE.search(sentence):
            raise DataError(f"{path}: the template {sentence!r} has no {{}} for the class name")
    names = next((key for key in lists if key.endswith("names")), None)
    return Prompts(_texts(path, names, lists[names]) if names is not None else (), sentences)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the prompts of {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"the prompts of {path} are not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not an object of lists of texts")
    return value


def _texts(path: Path | str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(t, str) for t in value):
        raise DataError(f"{path}: {key!r} must be a list of one text or more")
    return tuple(value)


def zero_shot_head(
    model: nn.Module,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> Float[Tensor, "C d"]:
    """A row of length 1 for each name: the mean of its sentences' embeddings of length 1.

    The ensemble of Radford et al. (2021), section 3.1.4.
    """
    together = max(1, _TEXTS_AT_ONCE // len(templates))
    rows = []
    for start in range(0, len(names), together):
        part = names[start : start + together]
        texts = [filled(template, name) for name in part for template in templates]
        embedding = text_embeddings(model, tokenizer(texts), device=device, bf16=bf16)
        rows.append(normalize(embedding, dim=-1).reshape(len(part), len(templates), -1).mean(1))
    return normalize(torch.cat(rows), dim=-1)


def filled(template: str, name: str) -> str:
    """``template`` with ``name`` in its place."""
    return PLACE.sub(lambda _: name, template)


@final
class ZeroShotClassifier(nn.Module):
    """A two-tower model and a head as a classifier: from images to cosines with the classes."""

    def __init__(self, model: nn.Module, head: Float[Tensor, "C d"]) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, image: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n C"]:
        """The cosines, fp32. Images of one channel are shown in all three."""
        embedding: Tensor = self.model.encode_image(in_colour(image))  # type: ignore[operator]
        # bf16 would make equals of cosines that differ in the third digit.
        with torch.autocast(image.device.type, enabled=False):
            return normalize(embedding.float(), dim=-1) @ self.head.T


@dataclass(frozen=True)
class ZeroShotResult:
    """Shares are in [0, 1]; a class without an example has ``None``."""

    top1: float
    top5: float
    per_class: tuple[float | None, ...]
    examples: int

    def metrics(self) -> dict[str, float | int]:
        """The numbers of a row in ``metrics.jsonl``."""
        return {"val/zero_shot_top1": self.top1, "val/zero_shot_top5": self.top5}


def evaluate_zero_shot(
    model: nn.Module,
    head: Float[Tensor, "C d"],
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> ZeroShotResult:
    """Accuracy of a two-tower ``model`` with a `zero_shot_head` over ``batches`` with labels.

    Labels number the rows of ``head``. No trace is left on ``model``.
    """
    found = evaluate_classification(
        ZeroShotClassifier(model, head.to(device)),
        batches,
        classes=len(head),
        device=device,
        bf16=bf16,
    )
    return ZeroShotResult(found.top1, found.top5, found.per_class, found.examples)
