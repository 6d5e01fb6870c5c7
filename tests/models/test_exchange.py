"""To open_clip and back; what is expected comes from open_clip itself."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from superbatch.errors import CheckpointError, ConfigError
from superbatch.models.export import export_open_clip
from superbatch.models.two_tower import TwoTower, build_two_tower


open_clip = pytest.importorskip("open_clip")

SMALL = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
}
SIZES = {"image_size": 32, "context": 9, "vocabulary": 50}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # open_clip logs to the root logger, which would give it a handler for all tests to come
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])


def build(name: str | Path, **options: object) -> TwoTower:
    model = build_two_tower(str(name), **{**SIZES, "sigmoid": False, "seed": 0, **options})
    return model.eval()


def pixels_and_text() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels from 0 to 1, and token ids."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(1, 49, (4, 9), generator=generator)
    text[:, 6:] = torch.tensor([49, 0, 0])
    return torch.rand(4, 3, 32, 32, generator=generator), text


def disturbed(model: TwoTower) -> TwoTower:
    """Every weight away from where it starts: norms and biases too, which start as 1 and 0."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def plain(folder: Path) -> nn.Module:
    return open_clip.create_model(f"local-dir:{folder}").eval()


def as_open_clip_does(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The last steps of open_clip's own preprocessing of an image."""
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    return transform.transforms[-1](pixels)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("name", ["mu-2400/16", "mu-300/8+mu-2400"])
def test_plain_open_clip_gives_what_ours_gave(name, sigmoid, tmp_path):
    model = disturbed(build(name, sigmoid=sigmoid))
    export_open_clip(model, tmp_path)
    theirs = plain(tmp_path)
    pixels, text = pixels_and_text()
    ours = model(pixels * 2 - 1, text)
    expected = theirs(as_open_clip_does(theirs, pixels), text)
    assert len(ours) == len(expected) == (4 if sigmoid else 3)
    assert all(near(*pair) for pair in zip(ours, expected, strict=True))
    raw = model.encode_image(pixels * 2 - 1)
    assert near(raw / raw.abs().max(), theirs.encode_image(pixels * 2 - 1) / raw.abs().max())

    back = build(tmp_path, sigmoid=sigmoid, seed=1)
    assert all(near(*pair) for pair in zip(back(pixels * 2 - 1, text), ours, strict=True))
    with_prefix = build(f"local-dir:{tmp_path}", sigmoid=sigmoid, seed=2)
    assert near(with_prefix(pixels * 2 - 1, text)[0], ours[0])


def test_what_came_from_open_clip_goes_back(tmp_path):
    config = {
        "model_cfg": SMALL,
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(config))
    model = disturbed(build(path))
    export_open_clip(model, tmp_path / "folder")
    theirs = plain(tmp_path / "folder")
    pixels, text = pixels_and_text()
    ours = model(pixels * 2 - 1, text)
    expected = theirs(as_open_clip_does(theirs, pixels), text)
    assert all(near(*pair) for pair in zip(ours, expected, strict=True))
    mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert near(theirs.encode_image((pixels - mean) / std, normalize=True), ours[0])


def test_a_checkpoint_of_open_clips_own_class_is_read(tmp_path):
    """CLIP keeps the text tower's weights under other names than CustomTextCLIP."""
    theirs = open_clip.model.CLIP(**copy.deepcopy(SMALL)).eval()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    pixels, text = pixels_and_text()
    # without a preprocess_cfg, open_clip takes OpenAI's
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    ours = build(tmp_path)(pixels * 2 - 1, text)
    expected = theirs((pixels - mean) / std, text)
    assert all(near(*pair) for pair in zip(ours, expected, strict=True))


def test_a_name_of_open_clip_is_its_architecture():
    name = "ViT-S-32-alt"
    sizes = {"image_size": 224, "context": 77, "vocabulary": 49408}
    with torch.device("meta"):
        ours = build(f"open_clip:{name}", **sizes)
        theirs = open_clip.create_model(name, device="meta", force_custom_text=True)
    own = {key.removeprefix("visual.tower."): tensor for key, tensor in ours.state_dict().items()}
    expected = {
        key.removeprefix("visual."): tensor.shape for key, tensor in theirs.state_dict().items()
    }
    assert {key: tensor.shape for key, tensor in own.items()} == expected


def test_scale_and_bias_of_loaded_weights(tmp_path):
    softmax, sigmoid = tmp_path / "softmax", tmp_path / "sigmoid"
    for folder, has_bias in ((softmax, False), (sigmoid, True)):
        model = build("mu-2400/16", sigmoid=has_bias)
        nn.init.constant_(model.logit_scale, 3.0)
        if has_bias:
            nn.init.constant_(model.logit_bias, -4.0)
        export_open_clip(model, folder)
    assert build(softmax).logit_scale.item() == 3.0
    kept = build(sigmoid, sigmoid=True)
    assert (kept.logit_scale.item(), kept.logit_bias.item()) == (3.0, -4.0)
    # a bias does not change a softmax; a softmax's temperature says nothing to a sigmoid
    assert build(sigmoid).logit_scale.item() == 3.0
    assert build(sigmoid).logit_bias is None
    anew = build(softmax, sigmoid=True)
    assert anew.logit_scale.item() == pytest.approx(2.302585)
    assert anew.logit_bias.item() == -10


@pytest.mark.parametrize(
    ("size", "asked", "own"),
    [("image_size", 64, 32), ("context", 8, 9), ("vocabulary", 49, 50), ("embedding", 64, 24)],
)
def test_sizes_that_the_architecture_does_not_have_are_refused(size, asked, own, tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    with pytest.raises(ConfigError, match=f"small.json was made for {size} = {own}, and {asked}"):
        build(path, **{size: asked})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as a configuration of open_clip"),
        ('["embed_dim", "vision_cfg", "text_cfg"]', "is no configuration of open_clip"),
        ('{"embed_dim": 5}', "is no configuration of open_clip"),
        (json.dumps(SMALL | {"text_cfg": None}), "is no configuration of open_clip"),
        (json.dumps(SMALL | {"vision_cfg": {"widht": 5}}), "cannot be built by open_clip.*widht"),
        (json.dumps(SMALL | {"text_cfg": {"hf_model_name": "x/y"}}), "not two towers of open_clip"),
        (json.dumps(SMALL | {"multimodal_cfg": {}}), "not two towers of open_clip"),
    ],
)
def test_a_broken_configuration_is_refused(content, said, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        build(path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read"):
        build(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match=r"open_clip_config\.json cannot be read"):
        build(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    with pytest.raises(CheckpointError, match="holds no weights"):
        build(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    export_open_clip(build("mu-2400/16"), tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    with pytest.raises(CheckpointError, match=r"open_clip_model.safetensors does not fit"):
        build(tmp_path)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="or is broken"):
        build(tmp_path)


def test_only_two_towers_are_written(tmp_path):
    with pytest.raises(ConfigError, match="Linear cannot be written for open_clip"):
        export_open_clip(nn.Linear(2, 2), tmp_path)
