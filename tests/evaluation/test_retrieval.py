import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from two_towers import LinearTowers, MadePairs

from superbatch.errors import DataError
from superbatch.evaluation import evaluate_retrieval
from superbatch.evaluation.retrieval import ranks, retrieval


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def from_similarity(similarity):
    """Rows of the similarity matrix, and unit vectors that pick its columns: their products."""
    similarity = torch.tensor(similarity)
    return similarity, torch.eye(similarity.shape[1])


# Two images, five captions: 10 10 20 20 20.
#          own best   wrong ones before it          rank
# image 10   .5       .9 .5 (a tie), not .4           2
# image 20   .8       none                            0
# caption    0    1    2    3    4
# its image .5   .2   .8   .1   .3
# other     .6   .2   .4   .9   .5
# rank       1   1(tie) 0  1    1
SIMILARITY = [[0.5, 0.2, 0.4, 0.9, 0.5], [0.6, 0.2, 0.8, 0.1, 0.3]]


def test_ranks_by_hand():
    image, text = from_similarity(SIMILARITY)
    image_id, text_id = ids(10, 20), ids(10, 10, 20, 20, 20)
    assert ranks(image, text, image_id, text_id).tolist() == [2, 0]
    assert ranks(text, image, text_id, image_id).tolist() == [1, 1, 0, 1, 1]


def test_what_differs_by_rounding_is_a_tie():
    image, text = from_similarity([[0.5, 0.4999998, 0.49]])
    assert ranks(image, text, ids(1), ids(1, 2, 3)).tolist() == [1]


def test_recalls_by_hand():
    # Cosines: the third number makes every image's length 2; captions are unit vectors.
    image = torch.tensor(SIMILARITY)
    rest = (4 - (image**2).sum(dim=1, keepdim=True)).sqrt()
    image = torch.cat([image, rest], dim=1)
    result = retrieval(image, torch.eye(6)[:5], ids(10, 20), ids(10, 10, 20, 20, 20))
    assert result.image_to_text == (0.5, 1.0, 1.0)
    assert result.text_to_image == (0.2, 1.0, 1.0)
    assert (result.images, result.examples) == (2, 5)
    assert result.mean_recall == pytest.approx((0.5 + 0.2 + 4) / 6)
    metrics = result.metrics()
    assert metrics["val/image_to_text_r1"] == 0.5
    assert metrics["val/text_to_image_r1"] == 0.2
    assert metrics["val/mean_recall"] == result.mean_recall
    assert sorted(metrics) == sorted(
        ["val/mean_recall"]
        + [f"val/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    )


def test_recall_counts_the_first_five_and_ten():
    # One image a rank: image r has its caption behind r wrong ones.
    size = 12
    similarity = np.zeros((size, size), np.float32)
    for row in range(size):
        order = [other for other in range(size) if other != row]
        order.insert(row, row)
        similarity[row, order] = np.linspace(0.9, 0.1, size)
    image, text = from_similarity(similarity)
    every = torch.arange(size)
    assert ranks(image, text, every, every).tolist() == list(range(size))
    tower = torch.cat([image, (9 - (image**2).sum(dim=1, keepdim=True)).sqrt()], dim=1)
    caption = torch.eye(size + 1)[:size]
    result = retrieval(tower, caption, every, every)
    assert result.image_to_text == pytest.approx((1 / 12, 5 / 12, 10 / 12))


def recalls_in_numpy(image, text, image_id, text_id):
    """Sorted lists, one query at a time; no ties in random numbers."""
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    similarity = image @ text.T
    found = {}
    for k in (1, 5, 10):
        hits = [
            image_id[row] in text_id[np.argsort(-similarity[row])[:k]]
            for row in range(len(image_id))
        ]
        found[f"val/image_to_text_r{k}"] = np.mean(hits)
        hits = [
            text_id[column] in image_id[np.argsort(-similarity[:, column])[:k]]
            for column in range(len(text_id))
        ]
        found[f"val/text_to_image_r{k}"] = np.mean(hits)
    return found | {"val/mean_recall": np.mean(list(found.values()))}


def test_recalls_equal_a_numpy_script():
    random = np.random.default_rng(0)
    image_id = random.permutation(40) * 3
    text_id = random.permutation(np.repeat(image_id, 5))
    # Captions near their images, so that recalls are neither 0 nor 1.
    image = random.normal(size=(40, 16)).astype(np.float32)
    row_of = {int(name): row for row, name in enumerate(image_id)}
    own = image[[row_of[int(name)] for name in text_id]]
    text = (0.4 * own + random.normal(size=own.shape)).astype(np.float32)
    expected = recalls_in_numpy(image, text, image_id, text_id)
    assert 0.2 < expected["val/mean_recall"] < 0.9
    tensors = map(torch.from_numpy, (image, text, image_id, text_id))
    assert retrieval(*tensors).metrics() == pytest.approx(expected)


@pytest.mark.parametrize("block", [1, 7, 60, 10**6])
def test_blocks_change_nothing(block):
    generator = torch.Generator().manual_seed(0)
    query = normalize(torch.randn(13, 4, generator=generator), dim=1)
    candidate = normalize(torch.randn(20, 4, generator=generator), dim=1)
    own, other = torch.arange(13) % 10, torch.arange(20) % 10
    whole = ranks(query, candidate, own, other)
    assert torch.equal(ranks(query, candidate, own, other, block=block), whole)


def test_no_more_similarities_are_held_than_a_block(monkeypatch):
    held = []
    masked_fill = torch.Tensor.masked_fill

    def spy(similarity, *arguments):
        held.append(similarity.numel())
        return masked_fill(similarity, *arguments)

    monkeypatch.setattr(torch.Tensor, "masked_fill", spy)
    ranks(torch.ones(13, 4), torch.ones(20, 4), torch.arange(13), torch.arange(20), block=99)
    # Four rows of 20 fit into 99.
    assert held == [80, 80, 80, 20]


def test_a_model_that_has_collapsed_or_diverged_finds_nothing():
    every = torch.arange(50)
    for value in (1 / 3, float("nan")):
        constant = torch.full((50, 7), value)
        result = retrieval(constant, constant, every, every)
        assert result.image_to_text == result.text_to_image == (0.0, 0.0, 0.0)


def test_an_untrained_model_finds_as_many_as_chance():
    pairs = MadePairs(400, 1)
    result = evaluate_retrieval(LinearTowers(), pairs.batches(64))
    for shares in (result.image_to_text, result.text_to_image):
        # Three standard deviations of a share of 400 by chance.
        for k, share in zip((1, 5, 10), shares, strict=True):
            chance = k / 400
            assert abs(share - chance) <= 3 * (chance * (1 - chance) / 400) ** 0.5


@pytest.mark.parametrize("size", [1, 7, 200])
def test_each_image_is_encoded_once_whatever_the_batches(size):
    pairs, model = MadePairs(20, 5), LinearTowers()
    result = evaluate_retrieval(model, pairs.batches(size))
    assert model.images == 20
    assert (result.images, result.examples) == (20, 100)
    with torch.no_grad():
        batch = pairs.read(np.arange(100))
        first = np.unique(pairs.image_ids, return_index=True)[1]
        model.eval()
        image = model.encode_image(batch["image"][first].float() / 127.5 - 1)
        text = model.encode_text(batch["text"])
    parts = (image.numpy(), text.numpy(), pairs.image_ids[first], pairs.image_ids)
    assert result.metrics() == pytest.approx(recalls_in_numpy(*parts))


def test_evaluating_leaves_no_trace():
    pairs, model = MadePairs(10, 2), LinearTowers()
    model.train()
    model.visual.eval()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = evaluate_retrieval(model, pairs.batches(8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training
    assert model.dropout.training
    assert not model.visual.training
    assert all(p.grad is None for p in model.parameters())
    assert evaluate_retrieval(model, pairs.batches(8)) == first


def test_bf16_towers_keep_fp32_similarities():
    pairs, model = MadePairs(20, 2), LinearTowers(width=32)
    seen = []
    encode = model.encode_image
    model.encode_image = lambda image: seen.append(encode(image)) or seen[-1]
    half = evaluate_retrieval(model, pairs.batches(50), bf16=True)
    assert seen[0].dtype == torch.bfloat16
    whole = evaluate_retrieval(model, pairs.batches(50))
    assert half.mean_recall == pytest.approx(whole.mean_recall, abs=0.1)


def test_no_pair_at_all_is_refused():
    pairs = MadePairs(2, 1)
    with pytest.raises(DataError, match="not one pair"):
        evaluate_retrieval(LinearTowers(), [pairs.read(np.arange(0))])


def shard(path, images):
    """A tar with ``images``, each a colour and its captions."""
    with tarfile.open(path, "w") as tar:
        for place, (colour, captions) in enumerate(images):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), colour).save(picture, "PNG")
            members = {"png": picture.getvalue(), "json": json.dumps({"captions": captions})}
            for suffix, content in members.items():
                content = content if isinstance(content, bytes) else content.encode()
                member = tarfile.TarInfo(f"{place:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_the_same_image_twice_in_a_shard_is_one_image_with_all_its_captions(tmp_path, monkeypatch):
    pytest.importorskip("open_clip", reason="needs the extra [clip]")
    from superbatch.sources.pairs import open_pairs

    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path / "cache"))
    images = [("red", ["a", "b"]), ("blue", ["c"]), ("red", ["d"]), ("green", ["e", "f", "g"])]
    pairs = open_pairs(shard(tmp_path / "a.tar", images), context=8)

    class Colours(LinearTowers):
        """Every caption is red."""

        def encode_image(self, image):
            return image.mean(dim=(2, 3))

        def encode_text(self, text):
            return torch.tensor([[1.0, -1.0, -1.0]]).expand(len(text), 3)

    batches = [pairs.read(np.arange(start, start + 3)[: len(pairs) - start]) for start in (0, 3, 6)]
    result = evaluate_retrieval(Colours(), batches)
    assert (result.images, result.examples) == (3, 7)
    # Red's captions a, b and d are the only ones that find their image. To an image all seven
    # captions are the same, and ties count against: four are before red's, six before blue's.
    assert result.text_to_image == pytest.approx((3 / 7, 1.0, 1.0))
    assert result.image_to_text == pytest.approx((0.0, 2 / 3, 1.0))


def test_an_untrained_model_on_real_photos_finds_as_many_as_chance(
    real_data, tmp_path, monkeypatch
):
    pytest.importorskip("open_clip", reason="needs the extra [clip]")
    from superbatch.sources.pairs import open_pairs

    monkeypatch.setenv("SUPERBATCH_CACHE", str(tmp_path))
    path = str(real_data / "coco_mini" / "coco_mini-val-00000.tar")
    pairs = open_pairs(path, context=16, image_size=32)

    class Unlearned(LinearTowers):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(pairs.vocabulary, 8)

    torch.manual_seed(0)
    result = evaluate_retrieval(Unlearned(), [pairs.read(np.arange(len(pairs)))])
    # The official 79 photos of its README, with five captions each.
    assert (result.images, result.examples) == (79, 395)
    assert result.text_to_image[2] == pytest.approx(10 / 79, abs=0.08)
