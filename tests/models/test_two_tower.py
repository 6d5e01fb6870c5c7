import json
import math

import pytest
import torch
from torch import nn

from superbatch.errors import ConfigError
from superbatch.models.two_tower import build_two_tower
from superbatch.models.variants import VARIANTS


pytest.importorskip("open_clip")

SIZES = {"image_size": 32, "context": 9, "vocabulary": 50}


def build(name: str = "mu-2400/16", **options: object) -> nn.Module:
    return build_two_tower(name, **{**SIZES, "sigmoid": False, "seed": 0, **options})


def pairs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1
    text = torch.randint(1, 49, (count, 9), generator=generator)
    text[:, 6:] = torch.tensor([49, 0, 0])  # the highest id ends a text
    return image, text


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_pairs_become_vectors_of_length_one_and_a_scale():
    model = build().eval()
    image, text, scale = model(*pairs())
    assert image.shape == text.shape == (3, 64)
    for features in (image, text):
        assert torch.allclose(features.norm(dim=1), torch.ones(3))
    assert scale.shape == ()
    assert scale.item() == pytest.approx(1 / 0.07)  # CLIP
    assert model.logit_bias is None
    images, texts = pairs()
    assert torch.equal(image, model.encode_image(images, normalize=True))
    assert torch.equal(text, nn.functional.normalize(model.encode_text(texts), dim=-1))
    assert not torch.allclose(model.encode_image(images), image)


def test_the_sigmoid_loss_starts_at_ten_and_minus_ten():
    model = build(sigmoid=True).eval()
    _, _, scale, bias = model(*pairs())
    assert model.logit_scale.item() == pytest.approx(math.log(10))  # SigLIP
    assert scale.item() == pytest.approx(10)
    assert bias.item() == -10
    assert model.logit_scale.shape == model.logit_bias.shape == ()


def test_texts_are_read_to_their_end_and_images_wholly():
    model = build().eval()
    image, text = pairs()
    unread = text.clone()
    unread[:, 7:] = 5  # behind the end
    assert torch.allclose(model.encode_text(text), model.encode_text(unread), atol=1e-6)
    unread[:, 5] = 5
    assert not torch.allclose(model.encode_text(text), model.encode_text(unread), atol=1e-3)
    image[:, :, -1, -1] = 1
    assert not torch.allclose(model.encode_image(image), model.encode_image(pairs()[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "image_size", "text_size", "embedding"),
    [
        ("mu-2400/16", "mu-2400", "mu-2400", 64),  # 48 wide: at least 64
        ("mu-300/16", "mu-300", "mu-300", 96),
        ("Ti/16", "Ti", "Ti", 192),
        ("Ti/16+mu-600", "Ti", "mu-600", 64),
        ("mu-1000/8+mu-300", "mu-1000", "mu-300", 64),
    ],
)
def test_both_towers_have_the_tables_shapes(name, image_size, text_size, embedding):
    with torch.device("meta"):
        model = build(name)
    patch = int(name.split("/")[1].split("+")[0])

    def blocks(size: str) -> int:
        # two norms, queries keys values and output with biases, two layers of the MLP with biases
        shape = VARIANTS[size]
        width, mlp = shape.width, shape.mlp
        return shape.depth * (4 * width + 4 * width * (width + 1) + 2 * width * mlp + mlp + width)

    width = VARIANTS[image_size].width
    tokens = (32 // patch) ** 2 + 1
    image = width * (3 * patch**2 + 1) + width + tokens * width + 2 * width + width * embedding
    assert weights(model.visual).numel() == image + blocks(image_size)
    width = VARIANTS[text_size].width
    text = 50 * width + 9 * width + 2 * width + width * embedding
    assert weights(model.text).numel() == text + blocks(text_size)


def test_an_embedding_can_be_asked_for():
    model = build(embedding=7).eval()
    assert model.encode_image(pairs()[0]).shape == model.encode_text(pairs()[1]).shape == (3, 7)
    with pytest.raises(ConfigError, match=r"embedding \(0\)"):
        build(embedding=0)


def test_token_embeddings_start_as_open_clips():
    model = build("mu-300/16", vocabulary=4000)
    assert model.text.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    # both projections: one over the root of the width
    assert model.visual.head.weight.std().item() == pytest.approx(96**-0.5, rel=0.05)
    assert model.text.text_projection.std().item() == pytest.approx(96**-0.5, rel=0.05)


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    first = weights(build(seed=1))
    torch.manual_seed(6)
    assert torch.equal(weights(build(seed=1)), first)
    assert not torch.equal(weights(build(seed=2)), first)


def test_the_global_random_state_is_left_alone(tmp_path):
    config = tmp_path / "small.json"
    config.write_text(json.dumps(SMALL))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build()
    first = weights(build(str(config), seed=1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(weights(build(str(config), seed=1)), first)


SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("sigmoid", [False, True])
def test_gradients_reach_every_weight(sigmoid):
    model = build(sigmoid=sigmoid)
    image, text, scale, *bias = model(*pairs())
    logits = scale * image @ text.T + sum(bias)
    # the diagonal alone: a sum over all would be flat in the bias of the softmax
    nn.functional.softplus(-logits.diagonal()).sum().backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not missing
    assert model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    assert model.text.positional_embedding.grad.abs().sum() > 0


def test_bf16_autocast_keeps_lengths():
    model = build(sigmoid=True).eval()
    exact, exact_text, *_ = model(*pairs())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        image, text, *_ = model(*pairs())
    assert image.dtype == text.dtype == torch.float32
    assert torch.allclose(image.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(image, exact, atol=0.02)
    assert torch.allclose(text, exact_text, atol=0.02)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("ti/16", "Ti/16"),
        ("Ti/16+mu600", r"Ti/16\+mu-600"),
        ("Ti+mu-600", r"Ti/4\+mu-600"),
        ("ViT-B-32", "open_clip:ViT-B-32"),
        ("open_clip:ViT-B-33", "ViT-B-32"),
    ],
)
def test_an_unknown_name_gets_suggestions(name, suggestion):
    with pytest.raises(ConfigError, match=f"did you mean .*{suggestion}"):
        build(name)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="16 pixels does not divide an image of 28"):
        build(image_size=28)
    with pytest.raises(ConfigError, match=r"context \(0\) must be at least 1"):
        build(context=0)
