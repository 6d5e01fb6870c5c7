"""Measures: what is asked of a model about each example. Its loss, where nothing else is said.

``forwards`` is what a measure costs: a forward pass a time that the model answers, and two more for
a gradient, as for an update (paper, section 3).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from superbatch.errors import ConfigError
from superbatch.tasks import Task
from superbatch.types import Batch


PASSES = 10
"""With dropout on, to see how far a model's answers spread; as many as RHO-LOSS's code takes."""

_NUMBERS_AT_ONCE = 2**26
"""Of gradients of single examples: 256 MB."""


def suits_all(task: Task, model: nn.Module) -> None:
    """Nothing is asked of the task or the model."""


@dataclass(frozen=True)
class Measure:
    """``of(task, model, batch)`` gives one number per example, fp32.

    It costs ``forwards`` forward passes of the model for each example. ``require(task, model)``
    raises ``ConfigError`` where it cannot be taken.
    """

    name: str
    of: Callable[[Task, nn.Module, Batch], Float[Tensor, " n"]]
    forwards: int = 1
    require: Callable[[Task, nn.Module], None] = suits_all


@runtime_checkable
class WithClasses(Protocol):
    """A task whose models answer with one logit for each class."""

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "n C"]:
        """The model's answer, fp32."""
        ...


def require_classes(task: Task, model: nn.Module) -> None:
    """Raise ``ConfigError`` where the task has no classes whose probabilities could be asked."""
    if not isinstance(task, WithClasses):
        raise ConfigError(
            f"this criterion looks at the probabilities of classes and {type(task).__name__} has "
            "none; take a criterion on losses, such as learnability"
        )


def act_loss(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """The task's act loss."""
    return task.act_loss(model, batch)


def log_probabilities(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, "n C"]:
    """Of each class; ``ConfigError`` for a task without classes."""
    require_classes(task, model)
    assert isinstance(task, WithClasses)
    return functional.log_softmax(task.logits(model, batch), dim=1)


def entropies(log_p: Float[Tensor, "*n C"]) -> Float[Tensor, "*n"]:
    """In nats, of distributions over the last axis; what is impossible adds nothing."""
    found: Tensor = torch.special.entr(log_p.exp()).sum(dim=-1)
    return found


def prediction_entropy(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """How undecided the model is, in nats, whatever the label."""
    return entropies(log_probabilities(task, model, batch))


def output_gradient_norm(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """Length of the cross-entropy's gradient by the logits, ``softmax - one-hot label``.

    In [0, sqrt 2]. Up to a factor that is the same for all it bounds the norm of the whole gradient
    from above (Katharopoulos & Fleuret 2018), at the price of a forward pass.
    """
    residual = log_probabilities(task, model, batch).exp()
    label = batch["label"][:, None]
    residual = residual.scatter_add(1, label, -torch.ones_like(label, dtype=residual.dtype))
    found: Tensor = residual.norm(dim=1)
    return found


def require_own_loss(task: Task, model: nn.Module) -> None:
    """Raise ``ConfigError`` where an example's loss is not its own."""
    if task.coupled:
        raise ConfigError(
            f"this criterion takes the gradient of each example's own loss and in "
            f"{type(task).__name__} examples share one; take a criterion on losses, such as "
            "learnability"
        )


def parameter_gradient_norm(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """Length of the act loss's gradient by all parameters of the model, example by example.

    At most 256 MB of gradients are held at once, or those of one example.
    """
    require_own_loss(task, model)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: Mapping[str, Tensor], example: Batch) -> Tensor:
        answers = _Answers(model, parameters)
        alone = {name: field.unsqueeze(0) for name, field in example.items()}
        return task.act_loss(answers, alone).squeeze(0)

    def norm(example: Batch) -> Tensor:
        gradients = grad(loss)(parameters, example).values()
        return torch.stack([one.float().square().sum() for one in gradients]).sum().sqrt()

    count = sum(value.numel() for value in parameters.values())
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, count))
    # The only attention that torch can take apart by examples.
    with sdpa_kernel(SDPBackend.MATH):
        norms: Tensor = vmap(norm, chunk_size=at_once)(dict(batch))
    return norms


class _Answers(nn.Module):
    """A model with other values for its parameters."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.takes_bytes = getattr(model, "takes_bytes", False)
        self._model = [model]  # in a list: not a part of this module
        self._parameters_of = dict(parameters)

    def forward(self, *inputs: Tensor) -> Tensor:
        answer: Tensor = functional_call(self._model[0], self._parameters_of, inputs)
        return answer


def dropouts(model: nn.Module) -> list[nn.Module]:
    """The layers of ``model`` that would drop something."""
    return [layer for layer in model.modules() if _rate(layer) > 0]


def _rate(layer: nn.Module) -> float:
    if isinstance(layer, nn.MultiheadAttention):
        return float(layer.dropout)
    return layer.p if isinstance(layer, _DropoutNd) else 0.0


def holders(model: nn.Module) -> list[nn.Module]:
    """The parts of ``model`` that have such a layer of their own.

    Fused attention takes its layer's rate, and looks whether it is in train mode itself. A model as
    a whole may answer otherwise in train mode, as Inception does, and is none of them.
    """
    return [
        part
        for part in model.modules()
        if part is not model
        and not isinstance(part, _BatchNorm)
        and any(_rate(layer) > 0 for layer in part.children())
    ]


def require_dropout(task: Task, model: nn.Module) -> None:
    """Raise ``ConfigError`` for a task without classes or a model that never varies."""
    require_classes(task, model)
    if not dropouts(model):
        raise ConfigError(
            "this criterion asks how far a model's answers spread under dropout and the model has "
            "none; give it some: --models.dropout 0.1"
        )


@contextmanager
def dropping(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Within: only dropout is in train mode, its masks decided by the examples of ``batch`` alone.

    After: modes and the global random state are as before. The same examples meet the same masks in
    any run that gives them to the model in the same parts, also after an interruption.
    """
    layers = [(layer, layer.training) for layer in dropouts(model) + holders(model)]
    seed = int((batch.get("draw", batch["id"]) * 2 + 1).sum()) % 2**63
    device = batch["id"].device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            for layer, _ in layers:
                layer.training = True
            yield
    finally:
        for layer, mode in layers:
            layer.training = mode


def sampled(task: Task, model: nn.Module, batch: Batch, passes: int) -> Float[Tensor, "K n C"]:
    """Log-probabilities of ``passes`` models that dropout leaves of ``model`` (Gal & Ghahramani
    2016). ``ConfigError`` where there is no dropout.
    """
    require_dropout(task, model)
    with dropping(model, batch):
        return torch.stack([log_probabilities(task, model, batch) for _ in range(passes)])


def conditional_entropy(passes: int = PASSES) -> Measure:
    """The mean entropy under dropout: what is undecided in the example itself."""

    def of(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        return entropies(sampled(task, model, batch, passes)).mean(dim=0)

    return Measure("conditional_entropy", of, passes, require_dropout)


def bald(passes: int = PASSES) -> Measure:
    """Entropy of the mean prediction less the mean entropy: what the models disagree about.

    In nats, never negative but for rounding (Houlsby et al. 2011).
    """

    def of(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        log_p = sampled(task, model, batch, passes)
        return entropies(log_p.exp().mean(dim=0).log()) - entropies(log_p).mean(dim=0)

    return Measure("bald", of, passes, require_dropout)


def loss_minus_conditional_entropy(passes: int = PASSES) -> Measure:
    """The mean loss under dropout less the mean entropy: surprise beyond what the model admits."""

    def of(task: Task, model: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
        log_p = sampled(task, model, batch, passes)
        label = batch["label"].expand(len(log_p), -1)[..., None]
        losses = -log_p.gather(2, label).squeeze(2)
        return (losses - entropies(log_p)).mean(dim=0)

    return Measure("loss_minus_conditional_entropy", of, passes, require_dropout)


loss = Measure("loss", act_loss)
"""The task's act loss, in nats."""
last_layer_gradient_norm = Measure("grad_norm", output_gradient_norm, require=require_classes)
"""See `output_gradient_norm`."""
gradient_norm = Measure("grad_norm_full", parameter_gradient_norm, 3, require_own_loss)
"""See `parameter_gradient_norm`."""
entropy = Measure("entropy", prediction_entropy, require=require_classes)
"""See `prediction_entropy`."""

MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        loss,
        last_layer_gradient_norm,
        gradient_norm,
        entropy,
        conditional_entropy(),
        bald(),
        loss_minus_conditional_entropy(),
    )
}
"""The measures by the name that commands give them."""
