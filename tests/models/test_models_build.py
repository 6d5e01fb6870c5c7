import pytest
import torch
from torch import nn

from superbatch.errors import ConfigError
from superbatch.flops import forward_flops
from superbatch.models.build import build_model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("name", "image_size", "channels", "classes"),
    [("mu-2400/4", 8, 1, 10), ("Ti/16", 32, 3, 7), ("resnet10t", 32, 3, 5), ("conv-4/2", 28, 1, 3)],
)
def test_images_become_logits(name, image_size, channels, classes):
    model = build_model(name, image_size=image_size, channels=channels, classes=classes, seed=0)
    images = torch.zeros(2, channels, image_size, image_size)
    assert model.eval()(images).shape == (2, classes)


def test_a_timm_name_of_fixed_image_size_is_built_for_ours():
    model = build_model("vit_tiny_patch16_224", image_size=32, channels=1, classes=4, seed=0)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


def test_the_shape_is_the_tables():
    # 48 wide, 2 deep, MLP 192: patches 16*48+48 = 816, positions 5*48 = 240, a class token 48;
    # a block: norms 2*96, qkv 48*144+144 = 7056, output 48*48+48 = 2352,
    # MLP 48*192+192 + 192*48+48 = 18672, so 28272; last norm 96, head 48*10+10 = 490
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    assert weights(model).numel() == 816 + 240 + 48 + 2 * 28272 + 96 + 490


def test_a_small_convnet_costs_what_resnet_8_does():
    # Two FLOPs a product. Stem: 32^2 places, 27 * 16. Stage 1: two of 32^2 places, 9 * 16 * 16.
    # Stage 2: 16^2 places, 9 * 16 * 32 + 9 * 32 * 32 and the way past, 16 * 32. Stage 3: 8^2
    # places, four times the products of stage 2. Head: 64 * 10.
    stem, first = 2 * 1024 * 27 * 16, 2 * 2 * 1024 * 9 * 256
    second = 2 * 256 * (9 * 512 + 9 * 1024 + 512)
    model = build_model("conv-16/1", image_size=32, channels=3, classes=10, seed=0)
    counted = forward_flops(model, torch.zeros(1, 3, 32, 32))
    assert counted == stem + first + 2 * second + 2 * 640
    strided = build_model("conv-16/2", image_size=32, channels=3, classes=10, seed=0)
    assert forward_flops(strided, torch.zeros(1, 3, 32, 32)) == (counted - 1280) // 4 + 1280
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_convnet_without_classes_gives_features():
    model = build_model("conv-4/2", image_size=16, channels=3, classes=0, seed=0)
    assert model.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 16)


def test_weights_come_from_the_seed_alone():
    def build(seed: int) -> torch.Tensor:
        return weights(build_model("mu-2400/4", image_size=8, channels=1, classes=3, seed=seed))

    torch.manual_seed(5)
    first = build(1)
    torch.manual_seed(6)
    assert torch.equal(build(1), first)
    assert not torch.equal(build(2), first)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model("mu-2400/4", image_size=8, channels=1, classes=3, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="16 pixels does not divide an image of 28"):
        build_model("Ti/16", image_size=28, channels=1, classes=3, seed=1)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("ti/16", "Ti/16"), ("mu300/4", "mu-300/4"), ("resnet19", "resnet1"), ("XL/16", "L/16")],
)
def test_an_unknown_name_gets_suggestions(name, suggestion):
    with pytest.raises(ConfigError, match=f"no model is called '{name}'.*{suggestion}") as error:
        build_model(name, image_size=32, channels=3, classes=3, seed=1)
    assert "L, B, S, Ti, mu-100" in str(error.value)


def test_what_timm_refuses_is_a_config_error():
    with pytest.raises(ConfigError, match=r"swin_tiny.* cannot be built for 3 x -1 x -1 images"):
        build_model("swin_tiny_patch4_window7_224", image_size=-1, channels=3, classes=3, seed=1)
