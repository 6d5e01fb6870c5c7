import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import SigLipLoss
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from superbatch import joint
from superbatch.criterion import CRITERIA
from superbatch.errors import ConfigError, DataError
from superbatch.joint import scores as joint_scores
from superbatch.selection import sample_indices


# Of each role: scale, and bias where the loss is the sigmoid.
MODELS = {"learner": (3.0, -1.0), "online": (5.0, -2.0), "reference": (12.0, -6.0)}
WEIGHING = ["hard", "easy", "learnability", "rho_loss"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def embeddings(count, width=6, seed=0):
    """Unit rows by role, image and text, in float64; pairs are alike but for noise."""
    random = generator(seed)
    towers = {}
    for role in MODELS:
        image = torch.randn(count, width, generator=random, dtype=torch.float64)
        text = image + torch.randn(count, width, generator=random, dtype=torch.float64)
        towers[role] = functional.normalize(image), functional.normalize(text)
    return towers


def factors_for(towers, loss):
    return {
        role: joint.logit_factors(*towers[role], scale, bias if loss == "sigmoid" else None)
        for role, (scale, bias) in MODELS.items()
    }


def batch_loss(towers, weights, rows):
    """The criterion's weighted SigLIP loss of the batch of ``rows``, summed over its images."""
    total = 0.0
    for role, weight in weights.items():
        image, text = (tower[rows] for tower in towers[role])
        scale, bias = MODELS[role]
        total += weight * len(rows) * float(SigLipLoss()(image, text, scale, bias))
    return total


def own_softmax_loss(towers, weights, row, chosen):
    """The weighted CLIP loss of ``row`` in the batch of ``chosen`` and itself."""
    rows = torch.tensor([*chosen, row])
    last = torch.tensor(len(chosen))
    total = 0.0
    for role, weight in weights.items():
        image, text = (tower[rows] for tower in towers[role])
        logits = MODELS[role][0] * image @ text.T
        of_image = functional.cross_entropy(logits[-1], last)
        of_text = functional.cross_entropy(logits[:, -1], last)
        total += weight * float(of_image + of_text) / 2
    return total


@pytest.mark.parametrize("criterion", WEIGHING)
def test_sigmoid_scores_are_the_exact_change_of_the_batch_loss(criterion):
    weights = CRITERIA[criterion].weights
    towers = embeddings(20)
    scores = joint.JointScores(factors_for(towers, "sigmoid"), weights, loss="sigmoid")
    chosen = []
    for chunk in ([3, 17, 4], [0, 9, 19], [1, 2, 12]):
        before = batch_loss(towers, weights, chosen) if chosen else 0.0
        measured = scores.given_chosen()
        for row in range(20):
            if row in chosen:
                assert measured[row] == -math.inf
            else:
                change = batch_loss(towers, weights, [*chosen, row]) - before
                assert float(measured[row]) == pytest.approx(change, abs=1e-9)
        scores.choose(torch.tensor(chunk))
        chosen += chunk


@pytest.mark.parametrize("criterion", WEIGHING)
def test_softmax_scores_are_each_pairs_own_loss_among_the_chosen(criterion):
    weights = CRITERIA[criterion].weights
    towers = embeddings(20)
    scores = joint.JointScores(factors_for(towers, "softmax"), weights, loss="softmax")
    chosen = []
    for chunk in ([3, 17, 4], [0, 9, 19], [1, 2, 12]):
        measured = scores.given_chosen()
        for row in set(range(20)) - set(chosen):
            own = own_softmax_loss(towers, weights, row, chosen)
            assert float(measured[row]) == pytest.approx(own, abs=1e-9)
        scores.choose(torch.tensor(chunk))
        chosen += chunk


def dot(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def test_what_a_pair_costs_alone():
    towers = embeddings(5)
    image, text = (tower.tolist() for tower in towers["online"])
    sigmoid = joint.own_losses(factors_for(towers, "sigmoid")["online"], "sigmoid")
    softmax = joint.own_losses(factors_for(towers, "softmax")["online"], "softmax")
    for row, similarity in enumerate(map(dot, image, text)):
        # -log sigmoid(5 s - 2), and minus the logit 5 s
        assert float(sigmoid[row]) == pytest.approx(math.log1p(math.exp(2 - 5 * similarity)))
        assert float(softmax[row]) == pytest.approx(-5 * similarity)


def logits_of(towers, role, loss):
    """Logits as nested lists, without a matrix product of ours."""
    scale, bias = MODELS[role]
    image, text = (tower.tolist() for tower in towers[role])
    shift = bias if loss == "sigmoid" else 0.0
    return [[scale * dot(i, t) + shift for t in text] for i in image]


def softplus(x):
    return math.log1p(math.exp(x))


def conditional(logits, row, chosen, loss):
    if loss == "sigmoid":
        others = [softplus(logits[row][j]) + softplus(logits[j][row]) for j in chosen]
        return softplus(-logits[row][row]) + sum(others)
    if not chosen:
        return -logits[row][row]
    batch = [*chosen, row]
    of_image = math.log(sum(math.exp(logits[row][j]) for j in batch))
    of_text = math.log(sum(math.exp(logits[j][row]) for j in batch))
    return (of_image + of_text) / 2 - logits[row][row]


def chances_of_sets(towers, weights, loss, first, temperature):
    """Of every set of four of six, drawn two and two: all orders of all draws, summed."""
    logits = {role: logits_of(towers, role, loss) for role in weights}

    def score(row, chosen):
        if not chosen and first == "uniform":
            return 0.0
        return sum(w * conditional(logits[r], row, chosen, loss) for r, w in weights.items())

    def chunk_chances(chosen):
        left = [row for row in range(6) if row not in chosen]
        mass = {row: math.exp(score(row, chosen) / temperature) for row in left}
        total = sum(mass.values())
        for one, two in itertools.permutations(left, 2):
            yield (one, two), mass[one] / total * mass[two] / (total - mass[one])

    chances = dict.fromkeys(itertools.combinations(range(6), 4), 0.0)
    for begun, chance in chunk_chances(()):
        for added, then in chunk_chances(begun):
            chances[tuple(sorted(begun + added))] += chance * then
    return chances


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("loss", "criterion", "first", "temperature"),
    [
        ("sigmoid", "learnability", "softmax", 1.0),
        ("sigmoid", "hard", "uniform", 2.0),
        ("softmax", "learnability", "softmax", 0.7),
    ],
)
def test_sets_are_drawn_as_often_as_exhaustive_enumeration_says(
    loss, criterion, first, temperature
):
    towers = embeddings(6, width=3, seed=2)
    weights = CRITERIA[criterion].weights
    expected = chances_of_sets(towers, weights, loss, first, temperature)
    assert math.fsum(expected.values()) == pytest.approx(1.0)
    factors = factors_for(towers, loss)
    random, draws = generator(), 1500
    counts = dict.fromkeys(expected, 0)
    for _ in range(draws):
        drawn = joint.joint_indices(
            factors,
            weights,
            4,
            loss=loss,
            chunks=2,
            first=first,
            temperature=temperature,
            generator=random,
        )
        counts[tuple(drawn.tolist())] += 1
    for rows, chance in expected.items():
        deviation = math.sqrt(draws * chance * (1 - chance))
        assert abs(counts[rows] - draws * chance) < 4 * deviation + 1, rows
    for row in range(6):
        chance = math.fsum(p for rows, p in expected.items() if row in rows)
        count = sum(c for rows, c in counts.items() if row in rows)
        assert abs(count - draws * chance) < 4 * math.sqrt(draws * chance * (1 - chance)) + 1


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_one_chunk_is_the_independent_draw(loss):
    towers = embeddings(50)
    weights = CRITERIA["learnability"].weights
    alone = torch.zeros(50, dtype=torch.float64)
    for role, weight in weights.items():
        logits = torch.tensor([row[i] for i, row in enumerate(logits_of(towers, role, loss))])
        alone += weight * (functional.softplus(-logits) if loss == "sigmoid" else -logits).double()
    drawn = joint.joint_indices(
        factors_for(towers, loss), weights, 20, loss=loss, chunks=1, generator=generator(5)
    )
    assert drawn.tolist() == sample_indices(alone, 20, generator=generator(5)).tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_one_uniform_chunk_is_the_uniform_draw(temperature):
    drawn = joint.joint_indices(
        factors_for(embeddings(50), "sigmoid"),
        CRITERIA["learnability"].weights,
        20,
        loss="sigmoid",
        chunks=1,
        first="uniform",
        temperature=temperature,
        generator=generator(5),
    )
    assert drawn.tolist() == sample_indices(torch.zeros(50), 20, generator=generator(5)).tolist()


@settings(max_examples=40)
@given(st.data())
def test_indices_are_distinct_ascending_and_as_many_as_asked(data):
    chunks = data.draw(st.integers(1, 5))
    count = chunks * data.draw(st.integers(1, 4))
    available = count + data.draw(st.integers(0, 10))
    drawn = joint.joint_indices(
        factors_for(embeddings(available, seed=data.draw(st.integers(0, 99))), "sigmoid"),
        CRITERIA["learnability"].weights,
        count,
        loss=data.draw(st.sampled_from(["sigmoid", "softmax"])),
        chunks=chunks,
        first=data.draw(st.sampled_from(["softmax", "uniform"])),
        temperature=data.draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0])),
    ).tolist()
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    assert 0 <= drawn[0] <= drawn[-1] < available


@pytest.mark.parametrize(
    ("available", "count", "chunks", "message"),
    [
        (20, 10, 4, "4 chunks do not divide a sub-batch of 10; .* are? 8 and 12"),
        (11, 10, 4, "4 chunks do not divide a sub-batch of 10; .* divide are 8"),
        (20, 3, 4, "4 chunks do not divide a sub-batch of 3; .* divide are 4"),
        (3, 3, 4, "4 chunks do not divide a sub-batch of 3; .* above the super-batch"),
        (9, 10, 2, "cannot choose 10 of 9 pairs"),
        (9, 0, 2, "cannot choose 0 of 9 pairs"),
        (9, 4, 0, "at least one chunk; chunks is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_nearest(available, count, chunks, message):
    factors = factors_for(embeddings(available), "sigmoid")
    with pytest.raises(ConfigError, match=message):
        joint.joint_indices(factors, {"online": 1.0}, count, loss="sigmoid", chunks=chunks)


def test_towers_of_different_widths_are_refused():
    with pytest.raises(ConfigError, match="images are 8 wide and those of texts 6"):
        joint.logit_factors(torch.ones(4, 8), torch.ones(4, 6), 1.0)


@pytest.mark.parametrize("weights", [{}, {"online": 0.0}, {"online": 1.0, "reference": -1.0}])
def test_weighed_roles_without_logits_are_refused(weights):
    factors = {"online": factors_for(embeddings(4), "sigmoid")["online"]}
    with pytest.raises(ConfigError, match="logits of every role that the criterion weighs"):
        joint.JointScores(factors, weights, loss="sigmoid")


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("first", ["softmax", "uniform"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pairs_with_embeddings_that_are_not_finite_are_never_chosen(loss, first, temperature):
    towers = embeddings(9)
    towers["online"][0][2, 1] = math.nan
    towers["reference"][1][5] = math.inf
    # Of the same sign everywhere: the logit is infinite, and its sigmoid loss 0.
    towers["online"][0][7] = math.inf
    towers["online"][1][7] = 1.0
    weights = CRITERIA["learnability"].weights
    for seed in range(5):
        drawn = joint.joint_indices(
            factors_for(towers, loss),
            weights,
            6,
            loss=loss,
            chunks=3,
            first=first,
            temperature=temperature,
            generator=generator(seed),
        )
        assert drawn.tolist() == [0, 1, 3, 4, 6, 8]
    with pytest.raises(DataError, match="9 pairs are wanted and only 6 of 9 have a finite loss"):
        joint.joint_indices(factors_for(towers, loss), weights, 9, loss=loss, chunks=3)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@settings(max_examples=25)
@given(st.integers(2, 24), st.integers(0, 10**6))
def test_a_permutation_of_the_super_batch_permutes_the_scores(loss, count, seed):
    towers = embeddings(count, seed=seed)
    order = torch.randperm(count, generator=generator(seed))
    shuffled = {role: (image[order], text[order]) for role, (image, text) in towers.items()}
    weights = CRITERIA["learnability"].weights
    chosen = torch.randperm(count, generator=generator(seed + 1))[: count // 2]
    one = joint.JointScores(factors_for(towers, loss), weights, loss=loss)
    other = joint.JointScores(factors_for(shuffled, loss), weights, loss=loss)
    other.choose(chosen)
    one.choose(order[chosen])
    torch.testing.assert_close(other.given_chosen(), one.given_chosen()[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@settings(max_examples=25)
@given(st.integers(8, 64), st.integers(0, 10**6))
def test_single_precision_agrees_with_double(loss, count, seed):
    towers = embeddings(count, width=32, seed=seed)
    single = {role: (image.float(), text.float()) for role, (image, text) in towers.items()}
    weights = CRITERIA["rho_loss"].weights
    measured = []
    for precision in (single, towers):
        scores = joint.JointScores(factors_for(precision, loss), weights, loss=loss)
        for chunk in torch.arange(count // 8 * 4).chunk(4):
            scores.choose(chunk)
        measured.append(scores.given_chosen())
    assert measured[0].dtype == torch.float32
    torch.testing.assert_close(measured[0].double(), measured[1], rtol=1e-5, atol=1e-4)


def test_half_precision_towers_make_single_precision_logits():
    image, text = (torch.ones(3, 4, dtype=torch.bfloat16) for _ in range(2))
    factors = joint.logit_factors(image, text, torch.tensor(1.001), torch.tensor(-0.001))
    # In bfloat16 1.001 would be 1: 4 * 1.001 - 0.001
    assert factors.own.tolist() == pytest.approx([4.003] * 3, abs=1e-6)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor had which was made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return result


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_no_more_than_a_chunk_of_the_matrix_ever_exists(loss):
    factors = factors_for(embeddings(256), loss)
    weights = CRITERIA["learnability"].weights
    with Largest() as largest:
        joint.joint_indices(factors, weights, 64, loss=loss, chunks=4)
    assert 0 < largest.elements <= 256 * 16


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_blocks_change_nothing(loss, monkeypatch):
    factors = factors_for(embeddings(50), loss)
    whole = joint.JointScores(factors, CRITERIA["learnability"].weights, loss=loss)
    whole.choose(torch.arange(7))
    monkeypatch.setattr(joint_scores, "CPU_BLOCK", 70)
    parts = joint.JointScores(factors, CRITERIA["learnability"].weights, loss=loss)
    with Largest() as largest:
        parts.choose(torch.arange(7))
    assert largest.elements <= max(70, 10 * 7)
    torch.testing.assert_close(parts.given_chosen(), whole.given_chosen(), rtol=0, atol=1e-12)
