"""What a model costs, and the ledger of what a run really spent.

FLOPs are counted as examples x role x (forward or update) and priced once per model. An update
costs three forward passes (paper, section 3). Two accountings are kept side by side, because the
paper's (eq. 5) leaves out work that really runs; see :meth:`Ledger.total`.
"""

import copy
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from superbatch.cost import FORWARDS_PER_UPDATE, Accounting
from superbatch.errors import LedgerError
from superbatch.models.variants import ViTSize, vit_forward_flops
from superbatch.types import Role


__all__ = ["Ledger", "Prices", "Work", "forward_flops", "vit_forward_flops"]

Work = Literal["score", "learn", "pretrain", "evaluate", "recompute"]
"""What an example was used for: a forward pass for selection, an update in the loop, an update
before the loop (a reference that had to be trained first), a forward pass for a measurement, and
one more forward pass of an update whose activations did not fit (cached gradients)."""

_FORWARDS: Mapping[Work, int] = {
    "score": 1,
    "learn": FORWARDS_PER_UPDATE,
    "pretrain": FORWARDS_PER_UPDATE,
    "evaluate": 1,
    "recompute": 1,
}


_ALWAYS_LISTED: tuple[Work, ...] = ("score", "learn", "pretrain", "evaluate")


@dataclass(frozen=True)
class Prices:
    """FLOPs of one example's forward pass: as such, and as it scores and learns.

    They differ where a model scores at a coarser resolution than it learns at (Flexi-JEST).
    """

    forward: int
    score: int
    learn: int

    @classmethod
    def same(cls, forward: int) -> "Prices":
        """One price for every work."""
        return cls(forward, forward, forward)

    def of(self, work: Work) -> int:
        """The price of one forward pass for ``work``."""
        if work == "score":
            return self.score
        return self.forward if work == "evaluate" else self.learn


def forward_flops(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> int:
    """FLOPs of a forward pass of ``model``, per example.

    ``example_input``, one tensor or several (image and text), has a leading axis ``n``; only what
    follows it, and the type, matter. Two FLOPs for each multiply-accumulate. A plain timm
    ``VisionTransformer`` is priced by the closed form, any other model by torch's counter on a copy
    on the meta device: nothing is computed, and nothing is missed (on CPU torch's counter may leave
    attention out). What a batch costs once, however large, as resizing weights, is no example's
    and left out. ``model`` is left as it was; price it before it is wrapped for several devices.

    Raises ``LedgerError`` for a model that costs nothing or cannot run on the meta device.
    """
    inputs = (example_input,) if isinstance(example_input, Tensor) else example_input
    flops = _plain_vit_flops(model, inputs[0])
    if flops is None:
        flops = _counted_flops(model, inputs)
    if flops == 0:
        raise LedgerError(
            f"a forward pass of {type(model).__name__} has no matrix product in it, so it would "
            "count as free; give a model with layers, or its price by hand"
        )
    return flops


def _plain_vit_flops(model: nn.Module, example_input: Tensor) -> int | None:
    """The closed form where it holds, else None."""
    # a module that was never imported has no models; importing it here would cost seconds
    timm_vit: Any = sys.modules.get("timm.models.vision_transformer")
    vit: Any = model
    if timm_vit is None or type(vit) is not timm_vit.VisionTransformer or not vit.blocks:
        return None
    blocks = [_linear_shapes(block) for block in vit.blocks]
    width, mlp = vit.embed_dim, blocks[0][-1][0]
    patch, image = vit.patch_embed.patch_size, example_input.shape[-2:]
    is_plain = (
        blocks == [[(width, 3 * width), (width, width), (width, mlp), (mlp, width)]] * len(blocks)
        and all(type(block) is timm_vit.Block for block in vit.blocks)
        and all(type(block.attn) is timm_vit.Attention for block in vit.blocks)
        and type(vit.patch_embed) is timm_vit.PatchEmbed
        and type(vit.patch_drop) is nn.Identity
        and type(vit.head) in (nn.Linear, nn.Identity)
        and vit.attn_pool is None
        and vit.global_pool in ("token", "avg")
        and patch[0] == patch[1]
        and image[0] == image[1]
        and image[0] % patch[0] == 0
    )
    if not is_plain:
        return None
    return vit_forward_flops(
        ViTSize(width, len(blocks), mlp, vit.blocks[0].attn.num_heads, source="read from a model"),
        patch[0],
        image_size=image[0],
        channels=example_input.shape[1],
        classes=sum(outputs for _, outputs in _linear_shapes(vit.head)),
        prefix_tokens=vit.num_prefix_tokens,
    )


def _linear_shapes(module: nn.Module) -> list[tuple[int, int]]:
    """Inputs and outputs of every linear layer in ``module``, in order."""
    return [
        (layer.in_features, layer.out_features)
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]


def _counted_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """FLOPs that one more example takes, by torch's counter, on a copy that holds no numbers."""
    on_meta: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
        for tensor in model.parameters()
    }
    on_meta |= {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    phantom = copy.deepcopy(model, on_meta).eval()

    def flops(count: int) -> int:
        examples = (each.new_empty((count, *each.shape[1:]), device="meta") for each in inputs)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), _mha_in_steps(), counter:
            phantom(*examples)
        return counter.get_total_flops()

    try:
        # two more, because a model may treat the halves of a batch differently
        return (flops(4) - flops(2)) // 2
    # What a foreign model raises without numbers differs by model; all of it means "no price".
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        shapes = ", ".join(str(tuple(each.shape[1:])) for each in inputs)
        raise LedgerError(
            f"{type(model).__name__} cannot be priced: a forward pass on the meta device failed "
            f"({error}), of inputs {shapes}; give inputs that it takes (--data.image-size), or its "
            "price by hand"
        ) from error


@contextmanager
def _mha_in_steps() -> Iterator[None]:
    """Within: no fused kernel for ``nn.MultiheadAttention``, which torch's counter does not see."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


class Ledger:
    """What a run spent: examples counted by role and by work, priced by the role's forward pass.

    ``forward_flops`` holds the price of each model that may run. Counting for a role without a
    price, or at a price of zero, raises ``LedgerError``: work that ran must not look free.

    ``planned`` is how many examples the learner learns in the whole run. What a reference that
    learns alongside costs in the paper's accounting follows from that alone, see `total`.
    """

    def __init__(self, forward_flops: Mapping[Role, int | Prices], planned: int = 0) -> None:
        self._prices: dict[Role, Prices] = {
            role: Prices.same(price) if isinstance(price, int) else price
            for role, price in forward_flops.items()
        }
        self._planned = planned
        self._examples: dict[Role, dict[Work, int]] = {}

    def score(self, roles: Collection[Role], count: int) -> None:
        """``count`` examples went through each of ``roles`` so that some could be chosen."""
        for role in roles:
            self._count(role, "score", count)

    def learn(self, role: Role, count: int) -> None:
        """``role`` was updated in the loop on ``count`` examples."""
        self._count(role, "learn", count)

    def recompute(self, role: Role, count: int) -> None:
        """An update of ``role`` on ``count`` examples ran their forward pass once more."""
        self._count(role, "recompute", count)

    def pretrain(self, role: Role, count: int) -> None:
        """``role`` was updated on ``count`` examples before the loop began."""
        self._count(role, "pretrain", count)

    def evaluate(self, role: Role, count: int) -> None:
        """``role`` was measured on ``count`` examples."""
        self._count(role, "evaluate", count)

    def total(self, accounting: Accounting) -> int:
        """FLOPs of the run so far, without evaluation.

        ``"full"`` is everything that ran. ``"paper"`` is eq. 5: scoring, the learner's updates and
        the reference's, but not the online model's. A reference trained in the loop costs there
        what one trained before it does, on as many examples as uniform training learns, all of it
        from its first update on: only so does the paper's table 1 come out.

        Evaluation is in neither: it is a measurement that any method needs alike, and how often one
        looks is not a cost of the method. :meth:`by_role` lists it.
        """
        if accounting == "full":
            return sum(
                flops
                for spent in self.by_role().values()
                for work, flops in spent.items()
                if work != "evaluate"
            )
        learned = self._of("learner", "learn")
        alongside = self._planned if self._of("reference", "learn") else 0
        reference = self._of("reference", "pretrain") + alongside
        scored = sum(
            self._price(role, "score") * self._of(role, "score") for role in self._examples
        )
        return scored + FORWARDS_PER_UPDATE * (
            self._price("learner", "learn") * learned
            + self._price("reference", "learn") * reference
        )

    def by_role(self) -> dict[Role, dict[Work, int]]:
        """FLOPs by role and work, of the roles that did any."""
        return {
            role: {
                work: self._price(role, work) * _FORWARDS[work] * count
                for work, count in spent.items()
            }
            for role, spent in self._examples.items()
        }

    def examples(self) -> dict[Role, dict[Work, int]]:
        """Examples by role and work, of the roles that did any."""
        return copy.deepcopy(self._examples)

    def state_dict(self) -> dict[str, Any]:
        """The prices and the counts, as plain values."""
        return {"forward_flops": self._plain_prices(), "examples": self.examples()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; ``LedgerError`` if it was counted at other prices."""
        if state["forward_flops"] != self._plain_prices():
            raise LedgerError(
                f"the ledger was kept at {state['forward_flops']} FLOPs per forward pass and would "
                f"go on at {self._plain_prices()}; continue with the same models and image size"
            )
        self._examples = copy.deepcopy(dict(state["examples"]))

    def _count(self, role: Role, work: Work, count: int) -> None:
        price = self._price(role, work)
        if price <= 0:
            raise LedgerError(
                f"the {role} model ran ({work}) but has no price: {price} FLOPs per forward pass; "
                f"priced are {', '.join(self._prices) or 'none'}"
            )
        if count < 0:
            raise LedgerError(f"{count} examples cannot be counted as {work} of {role}")
        if count == 0:
            return
        spent = self._examples.setdefault(role, dict.fromkeys(_ALWAYS_LISTED, 0))
        spent[work] = spent.get(work, 0) + count

    def _of(self, role: Role, work: Work) -> int:
        return self._examples.get(role, {}).get(work, 0)

    def _price(self, role: Role, work: Work) -> int:
        return self._prices[role].of(work) if role in self._prices else 0

    def _plain_prices(self) -> dict[Role, int | list[int]]:
        return {
            role: price.forward
            if price == Prices.same(price.forward)
            else [price.forward, price.score, price.learn]
            for role, price in self._prices.items()
        }
