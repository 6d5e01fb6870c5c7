import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from superbatch.errors import LedgerError
from superbatch.flops import Ledger, forward_flops
from superbatch.models.build import build_model
from superbatch.models.variants import VARIANTS, transformer_forward_flops, vit_forward_flops


def torch_count(model: nn.Module, shape: tuple[int, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        copy.deepcopy(model).to("meta")(torch.zeros(shape))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "image_size", "channels", "classes"),
    [
        ("mu-2400/4", 8, 1, 10),
        ("mu-300/4", 32, 3, 100),
        ("mu-600/7", 28, 1, 0),
        ("Ti/16", 224, 3, 1000),
        ("S/8", 32, 3, 10),
    ],
)
def test_the_closed_form_equals_torchs_counter(name, image_size, channels, classes):
    with torch.device("meta"):
        model = build_model(name, image_size=image_size, channels=channels, classes=classes, seed=0)
    size, patch = name.split("/")
    expected = torch_count(model, (1, channels, image_size, image_size))
    closed_form = vit_forward_flops(
        VARIANTS[size], int(patch), image_size=image_size, channels=channels, classes=classes
    )
    assert closed_form == expected
    batch = torch.zeros(3, channels, image_size, image_size)
    assert forward_flops(model, batch) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": True, "global_pool": "token"},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": True, "global_pool": "avg", "reg_tokens": 4},
        {"class_token": False, "global_pool": "map"},  # from here on not plain: torch counts
        {"class_token": True, "global_pool": ""},  # the head sees every token
        {"class_token": False, "global_pool": "avg", "img_size": (16, 32)},
    ],
)
def test_any_vision_transformer_of_timm_is_priced_as_torch_counts_it(options):
    from timm.models.vision_transformer import VisionTransformer

    options = {"img_size": (16, 16), **options}
    with torch.device("meta"):
        model = VisionTransformer(
            patch_size=4, in_chans=1, embed_dim=32, depth=2, num_heads=2, num_classes=5, **options
        )
    shape = (2, 1, *options["img_size"])
    assert 2 * forward_flops(model, torch.zeros(shape)) == torch_count(model, shape)


def test_a_changed_vision_transformer_is_counted_not_assumed():
    model = build_model("mu-2400/4", image_size=8, channels=1, classes=10, seed=0)
    plain = forward_flops(model, torch.zeros(1, 1, 8, 8))
    model.head = nn.Sequential(nn.Linear(48, 100), nn.Linear(100, 10))
    # 2*48*100 + 2*100*10 in place of 2*48*10
    assert forward_flops(model, torch.zeros(1, 1, 8, 8)) == plain - 960 + 9600 + 2000
    model.blocks[1].mlp.fc1 = nn.Sequential(nn.Linear(48, 8), nn.Linear(8, 192))
    # 5 tokens through 2*(48*8 + 8*192) in place of 2*48*192
    assert (
        forward_flops(model, torch.zeros(1, 1, 8, 8))
        == plain - 960 + 9600 + 2000 - 5 * 18432 + 5 * 3840
    )


def test_any_module_is_counted_per_example():
    # 3*3 kernel over 1 channel into 4 at 6*6 places, 2 FLOPs each, then 144 -> 5
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    assert forward_flops(model, torch.zeros(7, 1, 8, 8)) == 2 * 9 * 4 * 36 + 2 * 144 * 5


def test_attention_in_eval_mode_is_not_lost():
    # 6 tokens, width 8, MLP 16: 8*6*64 + 4*36*8 + 4*6*8*16. On CPU torch's fast path counts 0.
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert forward_flops(model, torch.zeros(2, 6, 8)) == 3072 + 1152 + 3072


def two_tower(name: str, **options: object) -> nn.Module:
    pytest.importorskip("open_clip")
    from superbatch.models.two_tower import build_two_tower

    sizes = {"image_size": 32, "context": 9, "vocabulary": 50, "sigmoid": True, "seed": 0}
    with torch.device("meta"):
        return build_two_tower(name, **{**sizes, **options})


@pytest.mark.parametrize(
    ("name", "image", "text", "embedding"),
    [
        ("mu-2400/8", "mu-2400", "mu-2400", 64),
        ("mu-300/16+mu-600", "mu-300", "mu-600", 64),
        ("Ti/16", "Ti", "Ti", 192),
    ],
)
def test_two_towers_cost_what_the_closed_forms_say(name, image, text, embedding):
    model = two_tower(name)
    patch, size = int(name.split("/")[1].split("+")[0]), VARIANTS[text]
    expected = vit_forward_flops(VARIANTS[image], patch, image_size=32, classes=embedding)
    expected += transformer_forward_flops(9, width=size.width, depth=size.depth, mlp=size.mlp)
    expected += 2 * size.width * embedding  # one vector of each text is projected
    for count in (1, 3):
        pairs = torch.zeros(count, 3, 32, 32), torch.zeros(count, 9, dtype=torch.int64)
        model.train(count == 1)  # on CPU torch's counter misses attention in one of the modes
        assert forward_flops(model, pairs) == expected


def test_an_architecture_of_open_clip_costs_what_its_configuration_says():
    from superbatch.cli.cost_clip import clip_flops

    name, sizes = "ViT-S-32-alt", {"image_size": 224, "context": 77, "vocabulary": 49408}
    model = two_tower(f"open_clip:{name}", **sizes)
    pair = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)
    assert forward_flops(model.eval(), pair) == clip_flops(name)


def test_what_a_batch_costs_once_is_no_examples():
    class Resized(nn.Linear):
        """Its weights are a product themselves, whatever the batch."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.weight @ self.weight)

    for count in (1, 2, 7):
        assert forward_flops(Resized(5, 5, bias=False), torch.zeros(count, 5)) == 2 * 5 * 5


def test_pricing_leaves_torchs_fast_path_as_it_was():
    for is_enabled in (False, True):
        torch.backends.mha.set_fastpath_enabled(is_enabled)
        forward_flops(nn.Linear(2, 2), torch.zeros(1, 2))
        assert torch.backends.mha.get_fastpath_enabled() == is_enabled


def test_pricing_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    before = copy.deepcopy(model.state_dict())
    forward_flops(model, torch.ones(2, 1, 8, 8))
    assert model.training
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_example_is_enough_for_a_model_in_training():
    # in training mode batch norm would refuse a single example
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    assert forward_flops(model, torch.zeros(1, 3)) == 24


def test_a_model_that_costs_nothing_is_refused():
    with pytest.raises(LedgerError, match="Flatten has no matrix product"):
        forward_flops(nn.Flatten(), torch.zeros(1, 2, 2))


def test_a_model_that_cannot_run_without_numbers_is_refused():
    class Undecided(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(LedgerError, match=r"Undecided cannot be priced: .* of inputs \(2,\); give"):
        forward_flops(Undecided(), torch.zeros(1, 2))


def ledger() -> Ledger:
    return Ledger({"learner": 100, "online": 10, "reference": 10})


def test_totals_worked_out_by_hand():
    spent = ledger()
    spent.score(["online", "reference"], 8)  # two models at 10: 160
    spent.learn("learner", 4)  # three passes of 100: 1200
    spent.learn("online", 4)  # three passes of 10: 120
    assert spent.total("full") == 1480
    assert spent.total("paper") == 1360


def test_a_reference_trained_before_counts_in_both():
    spent = ledger()
    spent.pretrain("reference", 50)
    assert spent.total("full") == spent.total("paper") == 1500


def test_a_reference_trained_alongside_costs_in_the_paper_what_one_trained_before_does():
    spent = Ledger({"learner": 100, "online": 10, "reference": 10}, planned=20)
    spent.learn("learner", 4)
    assert spent.total("paper") == 1200
    spent.learn("reference", 40)  # ten times the sub-batch
    assert spent.total("full") == 1200 + 1200
    assert spent.total("paper") == 1200 + 600  # as if on the 20 examples of uniform training
    spent.learn("learner", 16)
    spent.learn("reference", 160)
    assert spent.total("full") == 6000 + 6000
    assert spent.total("paper") == 6000 + 600


def test_the_papers_saving_with_a_reference_trained_alongside():
    # table 1, ClassAct-Online: 17 % fewer updates, 2 % less compute; Ti is 0.0714 of B (224/16)
    spent = Ledger({"learner": 10_000, "online": 714, "reference": 714}, planned=100)
    spent.score(["online", "reference"], 2 * 83)
    spent.learn("learner", 83)
    spent.learn("online", 83)
    spent.learn("reference", 830)
    assert 1 - spent.total("paper") / (3 * 10_000 * 100) == pytest.approx(0.02, abs=0.001)
    assert 1 - spent.total("full") / (3 * 10_000 * 100) == pytest.approx(-0.56, abs=0.005)


def test_a_learner_that_scores_costs_its_own_forward():
    spent = ledger()
    spent.score({"learner", "reference"}, 8)
    assert spent.total("full") == spent.total("paper") == 880


def test_evaluation_is_listed_but_is_no_cost_of_the_method():
    spent = ledger()
    spent.evaluate("learner", 1000)
    assert spent.total("full") == spent.total("paper") == 0
    assert spent.by_role() == {
        "learner": {"score": 0, "learn": 0, "pretrain": 0, "evaluate": 100_000}
    }


def test_only_roles_that_ran_are_listed():
    spent = ledger()
    assert spent.by_role() == spent.examples() == {}
    spent.score([], 8)
    spent.score(["online"], 0)
    assert spent.by_role() == {}
    spent.score(["online"], 8)
    spent.learn("online", 4)
    assert spent.by_role() == {"online": {"score": 80, "learn": 120, "pretrain": 0, "evaluate": 0}}
    assert spent.examples() == {"online": {"score": 8, "learn": 4, "pretrain": 0, "evaluate": 0}}


@pytest.mark.parametrize("prices", [{"learner": 100}, {"learner": 100, "online": 0}])
def test_work_without_a_price_is_refused(prices):
    spent = Ledger(prices)
    with pytest.raises(LedgerError, match=r"online model ran \(score\) but has no price"):
        spent.score(["learner", "online"], 8)
    with pytest.raises(LedgerError, match=r"online model ran \(learn\)"):
        spent.learn("online", 8)


def test_a_negative_count_is_refused():
    with pytest.raises(LedgerError, match="-1 examples"):
        ledger().learn("learner", -1)


def test_totals_stay_exact_beyond_floats():
    spent = Ledger({"learner": 10**15 + 1})
    spent.learn("learner", 10**12)
    assert spent.total("full") == 3 * (10**27 + 10**12)


def test_a_resumed_ledger_goes_on_counting():
    spent = ledger()
    spent.learn("learner", 4)
    state = spent.state_dict()
    spent.learn("learner", 4)  # the state is a snapshot
    resumed = ledger()
    resumed.load_state_dict(state)
    assert resumed.total("full") == 1200
    resumed.learn("learner", 4)
    assert resumed.examples() == spent.examples()
    assert state["examples"]["learner"]["learn"] == 4


def test_a_ledger_kept_at_other_prices_is_refused():
    other = Ledger({"learner": 200, "online": 10, "reference": 10})
    with pytest.raises(LedgerError, match="same models and image size"):
        other.load_state_dict(ledger().state_dict())


def test_counts_survive_the_formats_checkpoints_use():
    import json

    spent = ledger()
    spent.learn("learner", 4)
    resumed = ledger()
    resumed.load_state_dict(json.loads(json.dumps(spent.state_dict())))
    assert resumed.total("full") == 1200
    assert math.isfinite(resumed.total("paper"))
