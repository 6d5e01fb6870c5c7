"""The first super-batch: what cannot work is refused before anything is learned."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from superbatch.errors import ConfigError, DataError
from superbatch.selector.pytree import columns, take_rows
from superbatch.selector.scorer import Scorer, Seer, bare
from superbatch.types import Role


def check_first(scorer: Scorer, batch: Any, ids: Int64[Tensor, " B"], *, has_ids: bool) -> None:
    """Look at two rows of ``batch`` with every model; ``ConfigError`` or ``DataError``."""
    models = {role: scorer.models[role] for role in sorted(scorer.criterion.roles)}
    check_devices(models, batch)
    if not has_ids and any(not isinstance(model, nn.Module) for model in models.values()):
        raise DataError(
            "a table tells the loss of an example by its id and the super-batch has none; add a "
            "field 'id' that stays with the example, or give Selector(ids=...) to find it"
        )
    check_different(models)
    few = torch.arange(min(2, len(ids)))
    rows = take_rows(batch, few)
    seen = scorer.lens.seen(rows, ids[few])
    check_classes(scorer, models, seen)
    try:
        for role in models:
            scorer.losses(role, seen, ids[few])
    except KeyError as error:
        found = ", ".join(repr(name) for name in seen) if isinstance(seen, Mapping) else "fields"
        raise ConfigError(
            f"{scorer.lens.name} looks for {error} in the super-batch, which has {found}; give "
            "Selector(read=...) to say what is what, such as "
            "lambda batch: {'image': batch[0], 'label': batch[1]}"
        ) from error


def check_devices(models: Mapping[Role, Seer], batch: Any) -> None:
    """Refuse models that are elsewhere than the super-batch."""
    for path, column in columns(batch):
        for role, model in models.items():
            if not isinstance(model, nn.Module) or not isinstance(column, Tensor):
                continue
            first = next(model.parameters(), None)
            if first is not None and first.device != column.device:
                raise ConfigError(
                    f"{path} is on {column.device} and the {role} model on {first.device}; move "
                    f"the super-batch there before select, or the models with selector.to"
                )


def check_different(models: Mapping[Role, Seer]) -> None:
    """Refuse a reference that is the model that it is compared with, or has its very weights."""
    reference = models.get("reference")
    for role, model in models.items():
        if role == "reference" or not isinstance(reference, nn.Module):
            continue
        if not isinstance(model, nn.Module):
            continue
        if _same(bare(model), bare(reference)):
            raise ConfigError(
                f"the reference has the very weights of the {role} model, so their losses differ "
                "by nothing; give a reference that was trained before, on held-out or cleaner data"
            )
        if {id(p) for p in model.parameters()} & {id(p) for p in reference.parameters()}:
            raise ConfigError(
                f"the reference shares parameters with the {role} model and would change as it "
                "learns; give it a copy of its own: copy.deepcopy(model)"
            )


def check_classes(scorer: Scorer, models: Mapping[Role, Seer], seen: Any) -> None:
    """Refuse models that tell different numbers of classes apart."""
    found = {
        role: scorer.lens.classes(bare(model), seen, scorer.how)
        for role, model in models.items()
        if isinstance(model, nn.Module)
    }
    if len({count for count in found.values() if count is not None}) > 1:
        told = " and ".join(f"the {role} model {count}" for role, count in found.items())
        raise ConfigError(
            f"{told} classes: losses over different classes cannot be compared; give models with "
            "the same outputs"
        )


def _same(one: nn.Module, other: nn.Module) -> bool:
    if one is other:
        return True
    ours, theirs = one.state_dict(), other.state_dict()
    return (
        bool(ours)
        and ours.keys() == theirs.keys()
        and all(map(_equal, ours.values(), theirs.values()))
    )


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return True  # extra state, which is not weights
    return one.shape == other.shape and torch.equal(one, other.to(one.device))
