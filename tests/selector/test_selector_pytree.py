"""Rows of batches of any structure."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor

from superbatch.errors import DataError
from superbatch.selector.pytree import columns, rows, split_rows, take_rows


Views = namedtuple("Views", ["weak", "strong"])
PICK = torch.tensor([2, 0])


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor
    y: int


@dataclass
class Strict:
    """Refuses to be made again."""

    x: Tensor

    def __post_init__(self):
        assert len(self.x) == 3


def test_each_kind_of_column_is_picked_and_what_is_not_a_row_is_left():
    nothing = object()
    batch = {
        "tensor": torch.arange(6).reshape(3, 2),
        "array": np.array([1.5, 2.5, 3.5]),
        "texts": ["a", "b", "c"],
        "labels": (7, 8, 9),
        "boxes": [
            {"box": torch.zeros(1, 4)},
            {"box": torch.zeros(5, 4)},
            {"box": torch.ones(2, 4)},
        ],
        "scale": torch.tensor(2.0),
        "epoch": 4,
        "task": "train",
        "none": None,
        "empty": [],
        "other": nothing,
    }
    found = take_rows(batch, PICK)
    assert rows(batch) == 3
    assert found["tensor"].tolist() == [[4, 5], [0, 1]]
    assert found["array"].tolist() == [3.5, 1.5]
    assert found["texts"] == ["c", "a"]
    assert found["labels"] == (9, 7)
    assert [len(each["box"]) for each in found["boxes"]] == [2, 1]
    assert [found[name] for name in ("scale", "epoch", "task", "none")] == [2.0, 4, "train", None]
    assert found["empty"] == []
    assert found["other"] is nothing
    assert list(found) == list(batch)


@pytest.mark.parametrize(
    "batch",
    [
        (torch.arange(3), [torch.arange(3), torch.arange(3)]),
        Views(torch.arange(3), {"x": torch.arange(3)}),
        Frozen(torch.arange(3), 5),
        Strict(torch.arange(3)),
        OrderedDict(b=torch.arange(3), a=torch.arange(3)),
        UserDict(x=torch.arange(3)),
        torch.arange(3),
        ["a", "b", "c"],
    ],
)
def test_structures_stay_what_they_are(batch):
    found = take_rows(batch, PICK)
    assert type(found) is type(batch)
    assert all(column[0] in (2, "c") for _, column in columns(found))
    assert rows(found) == 2
    assert rows(batch) == 3  # the batch itself is as it was


def test_what_a_mapping_holds_besides_its_fields_stays():
    batch = defaultdict(list, x=torch.arange(3))
    found = take_rows(batch, PICK)
    assert found.default_factory is list
    assert found["x"].tolist() == [2, 0]
    assert take_rows(MappingProxyType({"x": torch.arange(3)}), PICK)["x"].tolist() == [2, 0]


def test_parts_are_in_order_and_the_last_is_short():
    parts = split_rows((torch.arange(5), list("abcde")), 2)
    assert [part[0].tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert [part[1] for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    whole = torch.arange(5)
    assert split_rows(whole, 0)[0] is whole
    assert split_rows(whole, 5)[0] is whole


def test_columns_that_disagree_are_both_named():
    batch = {"image": torch.zeros(4, 2), "extra": Views(torch.zeros(4), ["a", "b", "c"])}
    with pytest.raises(DataError) as refused:
        rows(batch)
    assert "batch['image'] has 4 rows and batch['extra'].strong has 3" in str(refused.value)


@pytest.mark.parametrize("batch", [(), {}, None, 3, {"x": torch.tensor(1.0)}])
def test_nothing_to_choose_from_is_refused(batch):
    with pytest.raises(DataError, match="nothing to choose from"):
        rows(batch)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match=r"batch\['x'\] has no rows"):
        rows({"x": torch.zeros(0, 3)})
