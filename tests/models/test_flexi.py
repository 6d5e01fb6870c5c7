import numpy as np
import pytest
import torch
from timm.layers import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from superbatch.errors import ConfigError
from superbatch.flops import forward_flops
from superbatch.models.build import build_model
from superbatch.models.flexi import AtPatch, MixedResolution, pseudo_inverse_resize
from superbatch.models.two_tower import TwoTower, build_two_tower
from superbatch.models.variants import VARIANTS, transformer_forward_flops, vit_forward_flops


def two_tower(name: str = "mu-2400/8", **options: object) -> TwoTower:
    pytest.importorskip("open_clip")
    sizes = {"image_size": 32, "context": 9, "vocabulary": 50, "sigmoid": True, "seed": 0}
    return build_two_tower(name, **{**sizes, **options}).eval()


def vit(name: str = "mu-2400/4", image_size: int = 16) -> nn.Module:
    return build_model(name, image_size=image_size, channels=3, classes=5, seed=0).eval()


def pairs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1
    return image, torch.randint(1, 50, (count, 9), generator=generator)


def test_two_pixels_of_one_are_halved():
    # enlarging (a) gives (a, a), whose least-squares inverse is the mean: weights w become w/2, w/2
    assert torch.allclose(pseudo_inverse_resize(1, 2), torch.tensor([[0.5, 0.5]]))
    # reducing (a, b) gives (a + b) / 2, so w a + w b is 2 w times that: weights are added up
    assert torch.allclose(pseudo_inverse_resize(2, 1), torch.tensor([[1.0], [1.0]]))


@pytest.mark.parametrize("sides", [(2, 4), (4, 8), (4, 6), (16, 32)])
def test_larger_patches_keep_every_product_with_an_enlarged_image(sides):
    own, at = sides
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 3, own, own, generator=generator)
    patch = torch.randn(7, 3, own, own, generator=generator)
    enlarged = F.interpolate(patch, size=(at, at), mode="bilinear", antialias=True)
    resize = pseudo_inverse_resize(own, at)
    resized = torch.einsum("ocij,iy,jx->ocyx", weight, resize, resize)
    expected = torch.einsum("ocij,ncij->no", weight, patch)
    assert torch.allclose(torch.einsum("ocij,ncij->no", resized, enlarged), expected, atol=1e-4)


@pytest.mark.parametrize("sides", [(2, 4), (4, 2), (4, 6), (16, 32)])
def test_the_resize_is_the_definition_and_timms(sides):
    own, at = sides
    # column k of R: the k-th pixel's image, resized; numpy's inverse of it
    pixels = torch.eye(own**2).view(own**2, 1, own, own)
    columns = F.interpolate(pixels, size=(at, at), mode="bilinear", antialias=True)
    matrix = columns.view(own**2, at**2).T.numpy().astype(np.float64)
    weight = torch.randn(4, 3, own, own, generator=torch.Generator().manual_seed(1))
    expected = weight.view(12, own**2).numpy() @ np.linalg.pinv(matrix)
    resize = pseudo_inverse_resize(own, at)
    ours = torch.einsum("ocij,iy,jx->ocyx", weight, resize, resize)
    assert np.allclose(ours.view(12, at**2).numpy(), expected, atol=1e-4)
    timms = resample_patch_embed(weight, [at, at], interpolation="bilinear")
    assert torch.allclose(ours, timms, atol=1e-4)


def test_at_the_models_own_patch_nothing_changes():
    model, images = two_tower(), pairs()
    for ours, expected in zip(AtPatch(model, 8)(*images), model(*images), strict=True):
        assert torch.equal(ours, expected)


def by_timm(model: nn.Module, patch: int, image_size: int) -> nn.Module:
    """A model of its own at another patch, its weights resized by timm."""
    other = vit(f"mu-2400/{patch}", image_size)
    state = model.state_dict()
    weight = resample_patch_embed(
        state["patch_embed.proj.weight"], [patch, patch], interpolation="bilinear"
    )
    positions = state["pos_embed"]
    width = positions.shape[-1]
    side = int((positions.shape[1] - 1) ** 0.5)
    grid = F.interpolate(
        positions[:, 1:].view(1, side, side, width).permute(0, 3, 1, 2),
        size=(image_size // patch, image_size // patch),
        mode="bilinear",
        antialias=True,
    )
    positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    other.load_state_dict(state | {"patch_embed.proj.weight": weight, "pos_embed": positions})
    return other


@pytest.mark.parametrize("patch", [8, 2])
def test_another_patch_is_a_model_whose_weights_timm_resized(patch):
    model, images = vit(), torch.rand(3, 3, 16, 16)
    expected = by_timm(model, patch, 16)(images)
    assert torch.allclose(AtPatch(model, patch)(images), expected, atol=1e-5)
    assert not torch.allclose(model(images), expected, atol=1e-3)


def test_only_the_image_tower_is_seen_otherwise():
    model, (image, text) = two_tower(), pairs()
    coarse = AtPatch(model, 16)
    image_features, text_features, scale, bias = coarse(image, text)
    assert torch.equal(text_features, model.encode_text(text, normalize=True))
    assert (scale, bias) == (model.logit_scale.exp(), model.logit_bias)
    assert torch.equal(image_features, coarse.encode_image(image, normalize=True))
    assert torch.equal(text_features, coarse.encode_text(text, normalize=True))
    assert image_features.shape == (4, 64)
    assert not torch.allclose(image_features, model(image, text)[0], atol=1e-3)


def test_open_clips_towers_are_seen_at_another_patch_as_ours(tmp_path):
    """The exported model is the same at its own patch, and so it is at any other."""
    from superbatch.models.export import export_open_clip

    model, inputs = two_tower(), pairs()
    nn.init.normal_(model.visual.patch_embed.proj.bias)
    export_open_clip(model, tmp_path)
    foreign = two_tower(str(tmp_path))
    for ours, expected in zip(
        AtPatch(foreign, 16)(*inputs), AtPatch(model, 16)(*inputs), strict=True
    ):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_parameters_are_shared_and_learn_through_the_view():
    model = vit()
    view = AtPatch(model, 8)
    assert {id(weight) for weight in view.parameters()} == {id(w) for w in model.parameters()}
    assert set(view.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    images = torch.rand(2, 3, 16, 16)
    before = view(images)
    before.square().sum().backward()
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token", "head.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0, name
    # the learned weights are those that the view sees next
    with torch.no_grad():
        model.pos_embed += torch.randn(model.pos_embed.shape)
    assert not torch.allclose(view(images), before, atol=1e-3)


def test_the_gradient_of_the_patch_embedding_is_the_resizes_transpose():
    model = vit()
    images = torch.rand(2, 3, 16, 16)
    AtPatch(model, 8)(images).square().sum().backward()
    other = by_timm(model, 8, 16)
    other(images).square().sum().backward()
    resize = pseudo_inverse_resize(4, 8)
    at_8 = other.patch_embed.proj.weight.grad
    expected = torch.einsum("ocyx,iy,jx->ocij", at_8, resize, resize)
    assert torch.allclose(model.patch_embed.proj.weight.grad, expected, atol=1e-5, rtol=1e-4)
    assert torch.allclose(
        model.patch_embed.proj.bias.grad, other.patch_embed.proj.bias.grad, atol=1e-5, rtol=1e-4
    )


def test_a_view_is_where_its_model_is():
    """The meta device stands for any other than the CPU."""
    view = AtPatch(vit().to("meta"), 8)
    assert view.resize.device.type == "meta"
    assert view(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 5)


def test_modes_reach_the_view():
    model = vit()
    model.head_drop = nn.Dropout(0.9)
    view = AtPatch(model, 8).train()
    images = torch.rand(2, 3, 16, 16)
    assert not torch.equal(view(images), view(images))
    view.eval()
    assert torch.equal(view(images), view(images))


def test_a_view_costs_what_its_tokens_cost():
    model = two_tower()
    text = transformer_forward_flops(9, width=48, depth=2, mlp=192) + 2 * 48 * 64
    prices = {
        patch: vit_forward_flops(VARIANTS["mu-2400"], patch, image_size=32, classes=64) + text
        for patch in (8, 16)
    }
    assert forward_flops(model, pairs()) == prices[8]
    assert forward_flops(AtPatch(model, 16), pairs()) == prices[16]
    assert forward_flops(MixedResolution(model, 16), pairs()) == (prices[8] + prices[16]) / 2


def test_mixed_resolution_halves_the_rows():
    model, (image, text) = two_tower(), pairs(5)
    mixed = MixedResolution(model, 16)
    fine, coarse = model(image[:3], text[:3]), AtPatch(model, 16)(image[3:], text[3:])
    image_features, text_features, scale, bias = mixed(image, text)
    assert torch.equal(image_features, torch.cat([fine[0], coarse[0]]))
    assert torch.equal(text_features, torch.cat([fine[1], coarse[1]]))
    assert (scale, bias) == (fine[2], fine[3])
    assert mixed.model is model
    assert torch.equal(mixed.encode_image(image), model.encode_image(image))
    assert torch.equal(mixed.encode_text(text), model.encode_text(text))
    assert torch.equal(mixed(image[:1], text[:1])[0], model(image[:1], text[:1])[0])


def test_mixed_resolution_of_a_classifier():
    model, images = vit(), torch.rand(4, 3, 16, 16)
    expected = torch.cat([model(images[:2]), AtPatch(model, 8)(images[2:])])
    assert torch.equal(MixedResolution(model, 8)(images), expected)


def test_bf16_autocast_resizes_in_full_precision():
    model, inputs = two_tower(), pairs()
    with torch.no_grad():
        exact = AtPatch(model, 16)(*inputs)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert (
                AtPatch(model, 16)._patch_embedding(model.visual.patch_embed.proj.weight).dtype
                == torch.float32
            )
            half = AtPatch(model, 16)(*inputs)[0]
    assert torch.allclose(half, exact, atol=0.02)


@pytest.mark.parametrize("options", [{"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}])
def test_register_tokens_keep_their_positions(options):
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=1, num_heads=2, num_classes=3, **options
    ).eval()
    assert AtPatch(model, 8)(torch.rand(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        nn.ModuleList([vit(), vit()]),
        VisionTransformer(img_size=(8, 16), patch_size=4, embed_dim=8, depth=1, num_heads=1),
        VisionTransformer(
            img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=1, dynamic_img_size=True
        ),
    ],
)
def test_models_whose_patch_cannot_change_are_refused(model):
    with pytest.raises(ConfigError, match=r"has \d Vision Transformers .* must have one"):
        AtPatch(model, 8)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="5 pixels does not divide an image of 16"):
        AtPatch(vit(), 5)
