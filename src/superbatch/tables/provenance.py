"""What a table of losses says of itself: whose losses, of which data, seen how."""

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from superbatch.errors import DataError


FORMAT = 1
"""Of the file; grows when older readers would misread newer files."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ScoredBy(_Frozen):
    """The model behind one column."""

    model: str
    """Its name, such as "mu-300/4"."""
    checkpoint: str
    """Where its weights were, as the command named them."""
    weights: str
    """SHA-256 of the weights file, in hexadecimal digits."""
    loss: str
    """The act loss, "cross_entropy", "dot", "contrastive" or "sigmoid_diagonal"; or what else was
    measured, "grad_norm", "grad_norm_full" or "entropy"."""
    scale: float = 1.0
    """What the loss was multiplied by."""


class Provenance(_Frozen):
    """Where a table comes from: JSON under the key ``superbatch`` of the file's schema metadata."""

    format: int = FORMAT
    """Version of the file's format."""
    data: str
    """The data set, as the command named it."""
    fingerprint: str
    """Of the examples that have a row: see `superbatch.tables.fingerprint`."""
    preprocessing: str
    """What was done to an example before the model saw it, in words."""
    image_size: int | None
    """Side of the images in pixels; none of texts."""
    view: str = "plain"
    """"plain": the examples as they are, without augmentation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the model's towers; losses are always fp32."""
    columns: Mapping[str, ScoredBy]
    """The model behind each column of losses."""
    skipped: int = 0
    """Examples without a row because their images are broken."""
    not_finite: int = 0
    """Examples without a row because a loss was NaN or infinite."""
    library: str
    """The version of superbatch that scored."""
    command: tuple[str, ...] = ()
    """What was typed."""

    @property
    def left_out(self) -> int:
        """Examples without a row."""
        return self.skipped + self.not_finite


def kind_of(text: bytes) -> str | None:
    """What another file of superbatch, such as an order, says that it is; none of a table."""
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said.get("file") if isinstance(said, dict) else None


def parsed(where: str, text: bytes) -> Provenance:
    """The provenance in ``text``. Raises ``DataError`` if it cannot be understood."""
    kind = kind_of(text)
    if kind is not None:
        raise DataError(f"{where} is a superbatch {kind} and no table of losses; give another file")
    try:
        found = Provenance.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
        raise DataError(f"the provenance of {where} cannot be read: {wrong}") from error
    if found.format > FORMAT:
        raise DataError(
            f"{where} is a table of format {found.format} and this version of superbatch reads "
            f"up to format {FORMAT}; update superbatch"
        )
    return found


SAME: tuple[str, ...] = ("preprocessing", "image_size", "view", "precision")
"""Facts in which two tables must agree before their losses mean the same."""


def differences(one: Provenance, other: Provenance) -> list[str]:
    """What makes losses of ``one`` and ``other`` mean different things; empty: nothing."""
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in SAME}
    if set(one.columns) != set(other.columns):
        pairs["columns"] = (", ".join(one.columns), ", ".join(other.columns))
    else:
        for name, scorer in one.columns.items():
            for fact in ("weights", "loss", "scale"):
                pairs[f"{fact} of column {name}"] = (
                    getattr(scorer, fact),
                    getattr(other.columns[name], fact),
                )
    return [
        f"{name} ({mine} and {theirs})" for name, (mine, theirs) in pairs.items() if mine != theirs
    ]
