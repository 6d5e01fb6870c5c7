import pytest
import torch
from torch import nn

from superbatch.learner import Learner, Optimisation, parameter_groups, warmup_cosine
from superbatch.passes import InParts, loss_source, part_sizes, traceless
from superbatch.tasks import Classification, Contrastive


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )


def batch(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(count),
        "image": torch.randn(count, 1, 4, 4, generator=generator),
        "label": torch.arange(count) % 3,
    }


def constant(step):
    return 0.01


def linear_learner(**changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return Learner(model, Classification(), Optimisation(schedule=constant, **changes))


def test_warmup_and_cosine_by_hand():
    rate = warmup_cosine(peak=2.0, warmup=10, steps=110)
    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)  # half way down: cos(pi/2) = 0
    assert rate(110) == pytest.approx(0.0)
    assert warmup_cosine(peak=2.0, warmup=0, steps=4, final_ratio=0.5)(4) == pytest.approx(1.0)


def test_scoring_leaves_no_trace():
    model = network()
    model.train()
    model[1].eval()  # a module may have a mode of its own
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    losses = loss_source(model, Classification())
    first, second = losses(batch()), losses(batch())
    assert torch.equal(first, second)  # dropout was off
    assert not first.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True, True, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_after_an_error():
    model = network()
    with pytest.raises(KeyError):
        loss_source(model, Classification())({"id": torch.arange(2)})
    assert all(module.training for module in model.modules())


def test_a_model_that_draws_random_numbers_even_in_eval_mode_leaves_the_state_alone():
    class Noisy(nn.Module):
        def forward(self, image):
            return image.flatten(1)[:, :3] + torch.randn(3)

    state = torch.get_rng_state()
    loss_source(Noisy(), Classification())(batch())
    assert torch.equal(state, torch.get_rng_state())


def test_losses_in_parts_equal_losses_at_once():
    model = network()
    at_once = loss_source(model, Classification())(batch())
    in_parts = loss_source(model, Classification(), micro_batch_size=5)(batch())
    assert torch.allclose(at_once, in_parts, atol=1e-6)


@pytest.mark.parametrize(("asked", "sizes"), [(0, [256, 256, 88]), (400, [400, 200])])
def test_on_a_cpu_rows_are_scored_as_its_caches_hold_them_unless_asked_otherwise(asked, sizes):
    learner, seen = linear_learner(micro_batch_size=asked), []
    learner.model.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    losses = learner.losses(batch(600))
    assert seen == sizes
    assert torch.allclose(losses, loss_source(learner.model, Classification())(batch(600)))
    seen.clear()
    learner.step(batch(300))
    assert seen == [300]  # what is learned from is another matter


def test_scores_are_fp32_under_bf16():
    losses = loss_source(network(), Classification(), bf16=True)(batch())
    assert losses.dtype == torch.float32


def test_a_step_is_adamw():
    ours = linear_learner(clip_norm=0.0, weight_decay=0.1)
    theirs = linear_learner().model
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs[1].weight], "weight_decay": 0.1},
            {"params": [theirs[1].bias], "weight_decay": 0.0},
        ],
        lr=0.01,
        fused=True,
    )
    for _ in range(3):
        loss = Classification().learn_loss(theirs, batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(ours.step(batch()), loss.detach())
    assert torch.equal(ours.model[1].weight, theirs[1].weight)
    assert torch.equal(ours.model[1].bias, theirs[1].bias)


def test_gradient_accumulation_is_the_gradient_of_the_whole():
    whole, parts = linear_learner(), linear_learner(micro_batch_size=5)
    for _ in range(3):
        assert float(whole.step(batch())) == pytest.approx(float(parts.step(batch())), abs=1e-6)
    assert torch.allclose(whole.model[1].weight, parts.model[1].weight, atol=1e-6)


def test_long_gradients_are_clipped():
    learner = linear_learner(clip_norm=1e-3)
    learner.step(batch())
    norm = torch.cat([p.grad.flatten() for p in learner.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_schedule_counts_updates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    schedule = {1: 0.5, 2: 0.25}.__getitem__
    learner = Learner(model, Classification(), Optimisation(schedule=schedule))
    rates = []
    for _ in range(2):
        learner.step(batch())
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.25]


def test_the_average_of_weights_by_hand():
    learner = linear_learner(ema_decay=0.9)
    start = learner.model[1].weight.detach().clone()
    learner.step(batch())
    own = learner.model[1].weight.detach().clone()
    # The decay warms up: min(0.9, (1 + 1) / (10 + 1)).
    expected = start * 2 / 11 + own * 9 / 11
    with learner.evaluated() as model:
        assert torch.allclose(model[1].weight, expected)
    assert torch.equal(learner.model[1].weight, own)


def test_an_average_of_weights_remembers_no_more_than_it_is_told_to():
    """At the second update 3/12 would be more than 0.2; whole numbers are the last ones."""
    torch.manual_seed(1)  # dropout
    learner = Learner(network(), Classification(), Optimisation(schedule=constant, ema_decay=0.2))
    learner.step(batch())
    first = {name: value.clone() for name, value in learner.evaluated_weights().items()}
    learner.step(batch())
    second, own = learner.evaluated_weights(), learner.model.state_dict()
    for name in ("0.weight", "1.running_mean", "5.bias"):
        assert not torch.equal(first[name], own[name])
        assert torch.allclose(second[name], 0.2 * first[name] + 0.8 * own[name], atol=1e-7), name
    assert first["1.num_batches_tracked"] == 1
    assert second["1.num_batches_tracked"] == 2


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_interrupted_and_resumed_is_identical(ema_decay):
    through = linear_learner(ema_decay=ema_decay)
    for _ in range(4):
        through.step(batch())
    first = linear_learner(ema_decay=ema_decay)
    for _ in range(2):
        first.step(batch())
    second = linear_learner(ema_decay=ema_decay)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step(batch())
    for name, value in through.evaluated_weights().items():
        assert torch.equal(value, second.evaluated_weights()[name])


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_who_takes_over_a_learners_numbers_goes_on_as_it_would(updates, ema_decay):
    through = linear_learner(ema_decay=ema_decay)
    first = linear_learner(ema_decay=ema_decay)
    second = linear_learner(ema_decay=ema_decay)
    second.step(batch(9))  # it has been elsewhere
    for _ in range(updates):
        through.step(batch())
        first.step(batch())
    taken, given = second.numbers(), first.numbers()
    assert taken.keys() == given.keys()
    with torch.no_grad():
        for name, value in taken.items():
            value.copy_(given[name])
    second.steps = first.steps
    for _ in range(3):
        assert torch.equal(second.step(batch()), through.step(batch()))
    for name, value in through.evaluated_weights().items():
        assert torch.equal(value, second.evaluated_weights()[name])


class Towers(nn.Module):
    """Two small towers that drop out, as open_clip's answer."""

    def __init__(self, dropout=0.0, sigmoid=False):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Dropout(dropout))
        self.text = nn.Embedding(20, 16)
        self.drop = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0)) if sigmoid else None
        self.rows = []

    def forward(self, image, text):
        self.rows.append(len(image))
        images, texts = self.image(image), self.drop(self.text(text).mean(dim=1))
        towers = nn.functional.normalize(images), nn.functional.normalize(texts)
        scalars = [self.logit_scale.exp()]
        return *towers, *(scalars if self.logit_bias is None else [*scalars, self.logit_bias])


def pairs(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "id": torch.arange(count),
        "image": torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8),
        "text": torch.randint(20, (count, 5), generator=generator),
    }


def pair_learner(model, task=None, **changes):
    return Learner(model, task or Contrastive("softmax"), Optimisation(constant, **changes))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, atol=tolerance), name


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("act", ["dot", "contrastive", "sigmoid_diagonal"])
def test_scores_of_pairs_in_parts_are_those_of_the_whole_super_batch(loss, act):
    model = Towers(dropout=0.5, sigmoid=loss == "sigmoid")
    whole = loss_source(model, Contrastive(loss, act))(pairs())
    parts = loss_source(model, Contrastive(loss, act), micro_batch_size=5)(pairs())
    assert torch.allclose(parts, whole, atol=1e-6)
    assert model.rows == [12, 5, 5, 2]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_cached_gradients_are_those_of_the_whole_contrastive_batch(loss):
    learners = [
        pair_learner(
            Towers(sigmoid=loss == "sigmoid"),
            Contrastive(loss),
            clip_norm=0.0,
            micro_batch_size=micro_batch_size,
        )
        for micro_batch_size in (0, 5)
    ]
    losses = [float(learner.step(pairs())) for learner in learners]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_close(gradients(learners[1].model), gradients(learners[0].model), 1e-5)
    assert learners[1].model.rows == [5, 5, 2, 2, 5, 5]  # again from the last


def test_cached_gradients_are_exact_with_dropout():
    torch.manual_seed(3)
    learner = pair_learner(Towers(dropout=0.5), clip_norm=0.0, micro_batch_size=5)
    torch.manual_seed(4)
    learner.step(pairs())
    # The same draws by hand: the towers part by part, all of it kept.
    model = Towers(dropout=0.5)
    image = pairs()["image"].float() / 127.5 - 1
    parts = list(zip(image.split(5), pairs()["text"].split(5), strict=True))
    torch.manual_seed(4)
    outputs = [model(*part) for part in parts]
    images, texts = (torch.cat([output[tower] for output in outputs]) for tower in (0, 1))
    logits = model.logit_scale.exp() * images @ texts.T
    own = torch.arange(12)
    loss = nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)
    (loss / 2).backward()
    assert_close(gradients(learner.model), gradients(model), 1e-5)


def test_dropout_goes_on_as_if_nothing_had_been_run_twice():
    states = []
    for micro_batch_size in (6, 0):
        learner = pair_learner(Towers(dropout=0.5), micro_batch_size=micro_batch_size)
        torch.manual_seed(4)
        learner.step(pairs())
        states.append(torch.rand(1))
    assert torch.equal(*states)


@pytest.mark.parametrize(("micro_batch_size", "twice"), [(0, False), (12, False), (11, True)])
def test_only_cached_gradients_recompute(micro_batch_size, twice):
    learner = pair_learner(Towers(), micro_batch_size=micro_batch_size)
    assert not learner.recomputes
    learner.step(pairs())
    assert learner.recomputes is twice
    classifier = linear_learner(micro_batch_size=micro_batch_size)
    classifier.step(batch())
    assert not classifier.recomputes


def test_a_batch_in_parts_is_never_held_as_floats(monkeypatch):
    brought = []

    def counted(image):
        brought.append(len(image))
        return image.float() / 255

    monkeypatch.setattr("superbatch.tasks.pixels.pixels", counted)
    loss_source(Towers(), Contrastive("softmax"), micro_batch_size=5)(pairs())
    assert brought == [5, 5, 2]
    image = torch.full((12, 3, 4, 4), 255, dtype=torch.uint8)
    assert InParts(nn.Flatten(), 5)(image).mean() == 1.0


def test_a_model_learns_and_is_scored_through_a_view_of_it():
    class Brighter(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model(image + 1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimisation = Optimisation(schedule=constant, clip_norm=0.0)
    learner = Learner(model, Classification(), optimisation, through=Brighter)
    bright = batch() | {"image": batch()["image"] + 1}
    plain = linear_learner(clip_norm=0.0)
    task = Classification()
    assert torch.equal(learner.losses(batch()), plain.losses(batch()))
    assert torch.equal(learner.scored(task.act_loss, Brighter)(batch()), plain.losses(bright))
    assert torch.equal(learner.step(batch()), plain.step(bright))
    assert_close(learner.model.state_dict(), plain.model.state_dict(), 0.0)


def test_a_trace_is_left_by_no_function_of_a_model():
    model = Towers(dropout=0.5)
    state = torch.get_rng_state()
    embeddings = traceless(model, Contrastive("softmax").embeddings, micro_batch_size=5)
    first, second = embeddings(pairs()), embeddings(pairs())
    assert torch.equal(first.image, second.image)
    assert not first.text.requires_grad
    assert first.image.shape == first.text.shape == (12, 16)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_scale_and_bias_do_not_decay():
    model = Towers(sigmoid=True)
    decayed, spared, numbers = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert {id(p) for p in decayed["params"]} == {id(model.image[1].weight), id(model.text.weight)}
    assert spared["weight_decay"] == 0.0
    assert numbers["weight_decay"] == 0.0
    assert numbers["params"] == [model.logit_scale, model.logit_bias]


def test_what_a_part_of_a_model_exempts_does_not_decay():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, 4, 8))
            self.weight = nn.Parameter(torch.zeros(8, 8))

        def no_weight_decay(self):
            return {"place"}

    tower = Positions()
    for model, path in ((tower, ""), (nn.ModuleDict({"visual": tower}), "visual.")):
        decayed, spared = parameter_groups(model, 0.1)
        named = dict(model.named_parameters())
        assert decayed["params"] == [named[f"{path}weight"]]
        assert spared["params"] == [named[f"{path}place"]]


def test_an_update_leaves_the_scale_within_its_bounds():
    model = Towers()
    learner = Learner(model, Contrastive("softmax"), Optimisation(schedule=lambda step: 50.0))
    learner.step(pairs())
    # Adam's first step is as long as the learning rate.
    assert model.logit_scale.item() in (0.0, pytest.approx(4.6052, abs=1e-4))


@pytest.mark.parametrize("micro_batch_size", [0, 5])
def test_weighted_examples_move_the_weights_by_their_weighted_mean(micro_batch_size):
    weighted = {**batch(), "weight": torch.linspace(0.2, 3.0, 12)}
    learner = linear_learner(clip_norm=0.0, micro_batch_size=micro_batch_size)
    losses = Classification().act_loss(learner.model, batch())
    expected = (weighted["weight"] * losses).sum() / 12
    gradient = torch.autograd.grad(expected, list(learner.model.parameters()))
    loss = learner.step(weighted)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, wanted in zip(learner.model.parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


@pytest.mark.parametrize(
    ("rows", "of_ranks", "sizes"),
    [
        (7, [7], [3, 3, 1]),
        (6, [6], [3, 3]),
        (2, [2], [2]),
        (6, [6, 7], [2, 2, 2]),  # as many as the 3 + 3 + 1 of the other
        (7, [6, 7], [3, 3, 1]),
        (1, [1, 4], [1]),  # one row cannot be two parts: the other rank's 4 are one as well
        (4, [1, 4], [4]),
    ],
)
def test_ranks_cut_their_rows_into_as_many_parts(rows, of_ranks, sizes):
    assert part_sizes(rows, 3, of_ranks) == sizes


def test_without_a_part_size_there_is_one_part():
    assert part_sizes(7, 0, [7, 6]) == [7]
