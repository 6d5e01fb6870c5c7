"""The first super-batch: what cannot work is refused before anything is learned."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from superbatch.criterion import Criterion
from superbatch.errors import CheckpointError, ConfigError, DataError
from superbatch.selector.lens import TaskLens
from superbatch.selector.pytree import columns, take_rows
from superbatch.selector.scorer import Scorer, Seer, bare
from superbatch.types import Role


Roles = Mapping[Role, Seer]


def check_criterion(criterion: object) -> None:
    """Refuse, with a ``ConfigError``, what is no criterion, such as the name of one."""
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            f"criterion is {criterion!r} and a Criterion is wanted; give one of "
            "superbatch.criterion, such as superbatch.criterion.learnability, or weights of your "
            "own: Criterion({'online': 1.0, 'reference': -1.0})"
        )


def check_first(scorer: Scorer, batch: Any, count: int, ids: Int64[Tensor, " B"] | None) -> None:
    """Look at two of the ``count`` rows with every model; ``ConfigError`` or ``DataError``."""
    roles = {role: scorer.models[role] for role in sorted(scorer.criterion.roles)}
    check_devices(roles, batch)
    check_different(roles)
    few = torch.arange(min(2, count))
    ids = None if ids is None else ids[few.to(ids.device)]
    seen = scorer.lens.seen(take_rows(batch, few))
    ids = scorer.lens.ids(seen) if ids is None else ids
    if ids is None and len(dict(_modules(roles))) < len(roles):
        raise DataError(
            "a table tells the loss of an example by its id, and the super-batch has none; add a "
            "field 'id' that stays with the example, or find it with Selector(ids=...)"
        )
    try:
        classes = check_classes(scorer, roles, seen)
        if isinstance(scorer.lens, TaskLens) and classes is not None:
            check_labels(scorer.lens.seen(batch).get("label"), classes)
        for role in roles:
            scorer.losses(role, seen, few if ids is None else ids)
    except KeyError as error:
        raise ConfigError(f"{scorer.lens.name} looks for {error} in {told(batch, seen)}") from error


def told(batch: Any, seen: Any) -> str:
    """What is found in ``batch``, of which ``seen`` is looked at, and how to have more found."""
    if not isinstance(seen, Mapping):
        found = type(seen).__name__
    else:
        others = [
            f"{path} of type {type(each).__name__}, which is not looked at (torch.as_tensor makes "
            "a tensor of it)"
            for path, each in columns(batch)
            if not isinstance(each, Tensor)
        ]
        found = ", ".join([*map(repr, seen), *others])
    return (
        f"a super-batch that has {found}; say what is what with "
        "Selector(read=lambda batch: {'image': batch['pixels'], ...})"
    )


def check_devices(roles: Roles, batch: Any) -> None:
    """Refuse models that are elsewhere than the super-batch; ids and labels may be anywhere."""
    for path, column in columns(batch):
        if not isinstance(column, Tensor) or (column.ndim == 1 and not column.is_floating_point()):
            continue
        for role, model in _modules(roles):
            first = next(model.parameters(), None)
            if first is not None and first.device != column.device:
                raise ConfigError(
                    f"{path} is on {column.device} and the {role} model on {first.device}; move "
                    "the super-batch there before select, or the models with selector.to(device)"
                )


def check_different(roles: Roles) -> None:
    """Refuse a reference that is the model that it is compared with, or has its very weights."""
    modules = dict(_modules(roles))
    reference = modules.pop("reference", None)
    if reference is None:
        return
    for role, model in modules.items():
        if _same(model, reference):
            raise ConfigError(
                f"the reference has the very weights of the {role} model, so their losses never "
                "differ; give a reference that was trained before, best on held-out data"
            )
        if {id(p) for p in model.parameters()} & {id(p) for p in reference.parameters()}:
            raise ConfigError(
                f"the reference shares parameters with the {role} model and would change when that "
                "learns; give it a copy of its own, by copy.deepcopy"
            )


def check_classes(scorer: Scorer, roles: Roles, seen: Any) -> int | None:
    """Refuse models that tell different numbers of classes apart; how many, where that is seen."""
    look = scorer.lens.first_look
    found = {role: look(model, seen, scorer.how) for role, model in _modules(roles)}
    if len(set(found.values()) - {None}) > 1:
        told = " and ".join(f"the {role} model has {count}" for role, count in found.items())
        raise ConfigError(
            f"{told} outputs, and losses over different classes do not compare; give models that "
            "tell the same classes apart"
        )
    return next(iter(found.values()), None)


def check_labels(labels: Any, classes: int) -> None:
    """Refuse numbers that are of none of the ``classes``; torch leaves -100 out of the loss."""
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return
    outside = labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
    if len(outside):
        raise DataError(
            f"a label is {outside.flatten()[0].item()} and the models have {classes} outputs, so "
            f"that labels are 0..{classes - 1}; number the classes from 0, or give models with as "
            "many outputs as there are classes"
        )


STATE = ("seed", "steps", "seen", "kept", "expected_steps", "online", "watch")
"""What the state of a Selector has besides its kind."""


def check_state(state: Mapping[str, Any], *, kind: str, seed: int, learns: bool) -> None:
    """Refuse, with a ``CheckpointError``, the state of something else or of another Selector."""
    if state.get("kind") != kind:
        raise CheckpointError(
            f"this is not the state of a Selector: it has {', '.join(map(str, state))[:200]}; give "
            "what selector.state_dict() gave"
        )
    lacking = [name for name in STATE if name not in state]
    if lacking:
        raise CheckpointError(
            f"the state of a Selector lacks {', '.join(lacking)}; give what selector.state_dict() "
            "gave, whole"
        )
    if state["seed"] != seed:
        raise CheckpointError(
            f"the state is of a Selector with seed {state['seed']} and this one has seed {seed}, "
            "so it would pick other rows; give it the same seed"
        )
    if (state["online"] is not None) != learns:
        has, lacks = ("this one", "that of the state") if learns else ("that of the state", "this")
        raise CheckpointError(
            f"the state is of another kind of Selector: {has} has an online model that learns and "
            f"{lacks} has none; give the same criterion, online model and filter ratio"
        )


def _modules(roles: Roles) -> Iterator[tuple[Role, nn.Module]]:
    return ((role, bare(model)) for role, model in roles.items() if isinstance(model, nn.Module))


def _same(one: nn.Module, other: nn.Module) -> bool:
    if one is other:
        return True
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one.device))
