"""Every criterion and recipe has a card, every card says when it hurts, and the ten lines run."""

import re
from pathlib import Path

import pytest
import torch

from superbatch.criterion import CRITERIA
from superbatch.recipes import RECIPES


DOCS = Path(__file__).parents[2] / "docs"
CARDS = sorted(path for path in (DOCS / "methods").glob("*.md") if path.name != "index.md")


def test_every_criterion_is_in_the_table_and_every_recipe_on_a_card():
    index = (DOCS / "methods" / "index.md").read_text()
    cards = "\n".join(path.read_text() for path in CARDS)
    assert not [name for name in CRITERIA if f"`{name}`" not in index]
    assert not [name for name in RECIPES if f"`{name}`" not in cards]


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_says_what_it_costs_and_when_it_hurts(card):
    text = card.read_text()
    assert "| source |" in text
    for title in ("Cost", "Temperature and rho", "When it hurts"):
        _, _, section = text.partition(f"\n## {title}\n\n")
        assert len(section.split("\n## ")[0].strip()) > 3, title
    assert f"({card.name})" in (DOCS / "methods" / "index.md").read_text()


def test_the_ten_lines_are_a_criterion():
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / "how-to" / "add-a-criterion.md").read_text(), re.DOTALL
    )
    names = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    with torch.no_grad():
        logits = names["model"](names["batch"]["image"])
    best = logits.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]
    torch.testing.assert_close(names["scores"], -margins)
    assert sorted(names["chosen"].tolist()) == sorted(margins.argsort()[:3].tolist())
