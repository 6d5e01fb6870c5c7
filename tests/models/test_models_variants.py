import pytest

from superbatch.errors import ConfigError
from superbatch.models.variants import (
    VARIANTS,
    parse_vit_name,
    patches_per_side,
    transformer_forward_flops,
    vit_forward_flops,
)


# GMACs of a forward pass at 224 px, patch 16, with a class token and no head
# (paper-facts section 5; the first four are the figures usually quoted for these models)
GMACS = {
    "L": 61.555,
    "B": 17.564,
    "S": 4.599,
    "Ti": 1.254,
    "mu-100": 0.603,
    "mu-200": 0.311,
    "mu-300": 0.190,
    "mu-600": 0.0975,
    "mu-1000": 0.0536,
    "mu-2400": 0.0256,
}


def test_the_table_holds_every_size_largest_first():
    assert list(VARIANTS) == list(GMACS)


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items())
def test_forward_flops_are_those_of_the_literature(name, gmacs):
    flops = vit_forward_flops(VARIANTS[name], 16, image_size=224)
    assert flops / 2e9 == pytest.approx(gmacs, rel=0.003)


@pytest.mark.parametrize(("name", "less"), [("L", 0.52), ("B", 0.53), ("S", 0.54), ("Ti", 0.57)])
def test_without_a_class_token_a_model_costs_less(name, less):
    # 196 tokens where the usual model has 197: 1/197 = 0.51 % of what is linear in tokens,
    # twice that of the attention
    size = VARIANTS[name]
    usual = vit_forward_flops(size, 16, image_size=224)
    pooled = vit_forward_flops(size, 16, image_size=224, prefix_tokens=0)
    assert 100 * (1 - pooled / usual) == pytest.approx(less, abs=0.006)


def test_a_forward_pass_worked_out_by_hand():
    # mu-2400 (48 wide, 2 deep, 192 in the MLP) on an 8 px grey image in patches of 4: 4 patches and
    # a class token. embedding 2*4*16*48 = 6144; a block 8*5*48^2 = 92160, 4*25*48 = 4800,
    # 4*5*48*192 = 184320, together 281280, two of them 562560; head 2*48*10 = 960
    flops = vit_forward_flops(VARIANTS["mu-2400"], 4, image_size=8, channels=1, classes=10)
    assert flops == 6144 + 562560 + 960


def test_a_text_tower_has_only_blocks():
    # CLIP-B's: 512 wide, 12 deep, 77 tokens, about 2.98 GMACs (paper-facts 3.3)
    flops = transformer_forward_flops(77, width=512, depth=12, mlp=2048)
    assert flops / 2e9 == pytest.approx(2.98, abs=0.005)


def test_the_mu_family_says_that_it_is_not_the_papers():
    for name, size in VARIANTS.items():
        assert ("not the paper's" in size.source) == name.startswith("mu-")


def test_widths_divide_into_heads():
    assert all(size.width % size.heads == 0 for size in VARIANTS.values())


def test_names_are_a_size_and_a_patch():
    assert parse_vit_name("Ti/16") == (VARIANTS["Ti"], 16)
    assert parse_vit_name("mu-300/4") == (VARIANTS["mu-300"], 4)


@pytest.mark.parametrize("name", ["resnet18", "XL/16", "Ti", "Ti/", "Ti/0", "Ti/x", "Ti/-4", "/16"])
def test_other_names_are_not_ours(name):
    assert parse_vit_name(name) is None


def test_a_patch_that_does_not_fit_names_those_that_do():
    assert patches_per_side(4, 32) == 8
    with pytest.raises(
        ConfigError, match=r"5 pixels does not divide an image of 32; .* do: 2, 4, 8$"
    ):
        patches_per_side(5, 32)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        patches_per_side(4, 0)
