"""What a model costs, and the ledger of what a run really spent.

FLOPs are counted as examples x role x (forward or update) and priced once per model. An update
costs three forward passes (paper, section 3). Two accountings are kept side by side, because the
paper's (eq. 5) leaves out work that really runs; see :meth:`Ledger.total`.
"""

import copy
import sys
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from superbatch.cost import FORWARDS_PER_UPDATE, Accounting
from superbatch.errors import LedgerError
from superbatch.models.variants import ViTSize, vit_forward_flops
from superbatch.types import Role


__all__ = ["Ledger", "Work", "forward_flops", "vit_forward_flops"]

Work = Literal["score", "learn", "pretrain", "evaluate"]
"""What an example was used for: a forward pass for selection, an update in the loop, an update
before the loop (a reference that had to be trained first), a forward pass for a measurement."""

_FORWARDS: Mapping[Work, int] = {
    "score": 1,
    "learn": FORWARDS_PER_UPDATE,
    "pretrain": FORWARDS_PER_UPDATE,
    "evaluate": 1,
}


def forward_flops(model: nn.Module, example_input: Tensor) -> int:
    """FLOPs of a forward pass of ``model``, per example.

    ``example_input`` has a leading axis ``n``; only its shape and type matter. Two FLOPs for each
    multiply-accumulate. A plain timm ``VisionTransformer`` is priced by the closed form, any other
    model by torch's counter on a copy on the meta device: nothing is computed, and nothing is
    missed (on CPU torch's counter may leave attention out). ``model`` is left as it was; price it
    before it is wrapped for several devices.

    Raises ``LedgerError`` for a model that costs nothing or cannot run on the meta device.
    """
    flops = _plain_vit_flops(model, example_input)
    if flops is None:
        flops = _counted_flops(model, example_input) // example_input.shape[0]
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


def _counted_flops(model: nn.Module, example_input: Tensor) -> int:
    """All FLOPs of one forward pass, by torch's counter, on a copy that holds no numbers."""
    on_meta: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
        for tensor in model.parameters()
    }
    on_meta |= {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    phantom = copy.deepcopy(model, on_meta).eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            phantom(example_input.to("meta"))
    # What a foreign model raises without numbers differs by model; all of it means "no price".
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise LedgerError(
            f"{type(model).__name__} cannot be priced: a forward pass on the meta device failed "
            f"({error}); give its price by hand"
        ) from error
    return counter.get_total_flops()


class Ledger:
    """What a run spent: examples counted by role and by work, priced by the role's forward pass.

    ``forward_flops`` holds the price of each model that may run. Counting for a role without a
    price, or at a price of zero, raises ``LedgerError``: work that ran must not look free.
    """

    def __init__(self, forward_flops: Mapping[Role, int]) -> None:
        self._prices: dict[Role, int] = dict(forward_flops)
        self._examples: dict[Role, dict[Work, int]] = {}

    def score(self, roles: Collection[Role], count: int) -> None:
        """``count`` examples went through each of ``roles`` so that some could be chosen."""
        for role in roles:
            self._count(role, "score", count)

    def learn(self, role: Role, count: int) -> None:
        """``role`` was updated in the loop on ``count`` examples."""
        self._count(role, "learn", count)

    def pretrain(self, role: Role, count: int) -> None:
        """``role`` was updated on ``count`` examples before the loop began."""
        self._count(role, "pretrain", count)

    def evaluate(self, role: Role, count: int) -> None:
        """``role`` was measured on ``count`` examples."""
        self._count(role, "evaluate", count)

    def total(self, accounting: Accounting) -> int:
        """FLOPs of the run so far, without evaluation.

        ``"full"`` is everything that ran. ``"paper"`` is eq. 5: scoring, the learner's updates and
        the reference's, but not the online model's; and a reference trained in the loop counts as
        if it had learned from no more examples than the learner, however many it really saw (that
        is how the paper's table 1 comes out).

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
        reference = self._of("reference", "pretrain") + min(self._of("reference", "learn"), learned)
        scored = sum(self._prices[role] * self._of(role, "score") for role in self._examples)
        return scored + FORWARDS_PER_UPDATE * (
            self._prices.get("learner", 0) * learned + self._prices.get("reference", 0) * reference
        )

    def by_role(self) -> dict[Role, dict[Work, int]]:
        """FLOPs by role and work, of the roles that did any."""
        return {
            role: {work: self._prices[role] * _FORWARDS[work] * spent[work] for work in _FORWARDS}
            for role, spent in self._examples.items()
        }

    def examples(self) -> dict[Role, dict[Work, int]]:
        """Examples by role and work, of the roles that did any."""
        return copy.deepcopy(self._examples)

    def state_dict(self) -> dict[str, Any]:
        """The prices and the counts, as plain values."""
        return {"forward_flops": dict(self._prices), "examples": self.examples()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; ``LedgerError`` if it was counted at other prices."""
        if state["forward_flops"] != self._prices:
            raise LedgerError(
                f"the ledger was kept at {state['forward_flops']} FLOPs per forward pass and would "
                f"go on at {self._prices}; continue with the same models and image size"
            )
        self._examples = copy.deepcopy(dict(state["examples"]))

    def _count(self, role: Role, work: Work, count: int) -> None:
        price = self._prices.get(role, 0)
        if price <= 0:
            raise LedgerError(
                f"the {role} model ran ({work}) but has no price: {price} FLOPs per forward pass; "
                f"priced are {', '.join(self._prices) or 'none'}"
            )
        if count < 0:
            raise LedgerError(f"{count} examples cannot be counted as {work} of {role}")
        if count == 0:
            return
        spent = self._examples.setdefault(role, dict.fromkeys(_FORWARDS, 0))
        spent[work] += count

    def _of(self, role: Role, work: Work) -> int:
        return self._examples.get(role, {}).get(work, 0)
