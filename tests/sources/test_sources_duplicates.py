"""Equal pairs of a batch."""

import torch

from superbatch.sources.duplicates import duplicates, without_duplicates


def batch_of(ids, images, texts):
    return {
        "id": torch.tensor(ids),
        "image_id": torch.tensor(images),
        "text": torch.tensor(texts),
        "image": torch.arange(len(ids), dtype=torch.uint8).reshape(-1, 1, 1, 1),
    }


def test_the_first_of_equals_stays():
    batch = batch_of(
        # new, same id, same image, same text, only part of the text, new
        ids=[5, 5, 7, 8, 9, 10],
        images=[0, 1, 0, 2, 3, 4],
        texts=[[1, 2], [3, 4], [5, 6], [1, 2], [1, 3], [2, 1]],
    )
    assert duplicates(batch).tolist() == [False, True, True, True, False, False]
    kept = without_duplicates(batch)
    assert kept["id"].tolist() == [5, 9, 10]
    assert kept["image"].flatten().tolist() == [0, 4, 5]
    assert not duplicates(kept).any()


def test_equal_to_a_duplicate_is_a_duplicate():
    # The third has the text of the second, which has the image of the first.
    batch = batch_of(ids=[0, 1, 2], images=[4, 4, 6], texts=[[1, 1], [2, 2], [2, 2]])
    assert duplicates(batch).tolist() == [False, True, True]


def test_many_of_them_by_looking_at_every_earlier_one():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, below):
        return torch.randint(below, shape, generator=generator).tolist()

    batch = batch_of(draw(200, below=500), draw(200, below=300), draw(200, 2, below=12))
    names = ("id", "image_id", "text")
    expected = [
        any(torch.equal(batch[n][i], batch[n][j]) for n in names for i in range(j))
        for j in range(200)
    ]
    assert 20 < sum(expected) < 180
    assert duplicates(batch).tolist() == expected


def test_fields_that_are_absent_do_not_count():
    batch = {"id": torch.tensor([3, 4, 3]), "label": torch.tensor([1, 1, 1])}
    assert duplicates(batch).tolist() == [False, False, True]
    assert without_duplicates(batch)["id"].tolist() == [3, 4]


def test_an_empty_batch_has_none():
    empty = {"id": torch.zeros(0, dtype=torch.int64)}
    assert duplicates(empty).shape == (0,)
