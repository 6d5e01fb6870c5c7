import json

import pytest

from superbatch.cli import main
from superbatch.cli.cost_clip import clip_flops


def test_clip_b_32_is_what_the_literature_says():
    # CLIP ViT-B/32: 4.4 GMACs for the image, 2.98 for 77 tokens of text, projections 0.7 M
    assert clip_flops("ViT-B-32") / 2e9 == pytest.approx(4.41 + 2.98, abs=0.03)


def test_it_is_torchs_own_count():
    open_clip = pytest.importorskip("open_clip")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = open_clip.create_model("ViT-S-32-alt", pretrained=None, device="meta").train()
        size = open_clip.get_model_config("ViT-S-32-alt")["vision_cfg"]["image_size"]
        image, text = torch.empty(1, 3, size, size), torch.zeros(1, 77, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model.encode_image(image)
            model.encode_text(text)
    # torch counts a causal attention in full, as the closed form does
    assert clip_flops("ViT-S-32-alt") == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_names_of_open_clip_on_the_command_line(capsys):
    command = ["cost", "--learner", "open_clip:ViT-L-14", "--actor", "open_clip:ViT-S-32-alt"]
    assert main([*command, "--beta", "0.6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # CLIP ViT-L/14: 80.9 GMACs for the image with 1024-wide towers, 6.5 for the text
    assert told["flops"]["learner"]["forward"] / 2e9 == pytest.approx(80.7 + 6.6, abs=0.7)
    assert told["verdict"] == "compute-positive"


@pytest.mark.parametrize(
    ("name", "said"),
    [("ViT-Q-99", "open_clip has no model"), ("ViT-B-16-SigLIP", "give the model's forward FLOPs")],
)
def test_what_has_no_price_is_refused(name, said, capsys):
    assert main(["cost", "--learner", f"open_clip:{name}", "--actor", "1G", "--beta", "0.6"]) == 2
    assert said in capsys.readouterr().err
