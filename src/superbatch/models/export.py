"""Two-tower models to open_clip: the configuration and the weights that it reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from superbatch.errors import ConfigError
from superbatch.files import write_atomically, write_json
from superbatch.models.exchange import CONFIG_FILE, WEIGHTS_FILE, Renormalised


def describe(visual: Any, text: Any) -> dict[str, Any]:
    """How open_clip describes a plain timm ViT without a head's bias, and its text transformer."""
    block, text_block = visual.blocks[0], text.transformer.resblocks[0]
    width = visual.embed_dim
    return {
        "model_cfg": {
            "embed_dim": text.output_dim,
            "vision_cfg": {
                "image_size": visual.patch_embed.img_size[0],
                "patch_size": visual.patch_embed.patch_size[0],
                "width": width,
                "layers": len(visual.blocks),
                "head_width": width // block.attn.num_heads,
                "mlp_ratio": block.mlp.fc1.out_features / width,
                "no_ln_pre": True,
                "norm_kwargs": {"eps": visual.norm.eps},
            },
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "width": text.width,
                "layers": len(text.transformer.resblocks),
                "heads": text.heads,
                "mlp_ratio": text_block.mlp.c_fc.out_features / text.width,
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }


def export_open_clip(model: nn.Module, folder: Path) -> None:
    """Write ``model``, of :func:`~superbatch.models.two_tower.build_two_tower`, for open_clip.

    ``open_clip.create_model("local-dir:FOLDER")`` reads ``folder`` and gives the same embeddings,
    for images whose pixels in [0, 1] are preprocessed as the configuration there says.

    Raises ``ConfigError`` for any other model, ``RunError`` where the disk refuses.
    """
    config = getattr(model, "open_clip_config", None)
    if config is None:
        raise ConfigError(
            f"{type(model).__name__} cannot be written for open_clip, only what build_two_tower "
            "gives; a wrapper has that as its .model"
        )
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("visual.")
    }
    visual: Any = model.visual
    is_open_clips = isinstance(visual, Renormalised)
    own = visual.tower.state_dict() if is_open_clips else _native_names(visual.state_dict())
    state |= {f"visual.{name}": tensor for name, tensor in own.items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    architecture = {**config["model_cfg"], "custom_text": True}
    architecture.pop("init_logit_bias", None)
    if "logit_bias" in state:
        architecture["init_logit_bias"] = state["logit_bias"].item()
    serialised = save(state)

    def write(beside: Path) -> None:
        beside.write_bytes(serialised)  # what the disk refuses safetensors would hide

    write_atomically(folder / WEIGHTS_FILE, write)
    write_json(folder / CONFIG_FILE, {**config, "model_cfg": architecture})


def _native_names(timm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of timm's ViT as open_clip's own ViT has them."""
    positions = timm["pos_embed"][0].clone()
    positions[1:] += timm["patch_embed.proj.bias"]  # open_clip's patches have no bias
    state = {
        "class_embedding": timm["cls_token"][0, 0],
        "positional_embedding": positions,
        "conv1.weight": timm["patch_embed.proj.weight"],
        "ln_post.weight": timm["norm.weight"],
        "ln_post.bias": timm["norm.bias"],
        "proj": timm["head.weight"].T,
    }
    for name, tensor in timm.items():
        if name.startswith("blocks."):
            for theirs, native in _BLOCK_NAMES:
                name = name.replace(theirs, native)
            state[name] = tensor
    return state


_BLOCK_NAMES = (
    ("blocks.", "transformer.resblocks."),
    (".norm1.", ".ln_1."),
    (".norm2.", ".ln_2."),
    (".attn.qkv.", ".attn.in_proj_"),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
