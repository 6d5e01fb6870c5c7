import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_runs import CLASSES, MadeExamples, MadePairs, write_rich_run, write_run

from superbatch.errors import DataError
from superbatch.prefixes import si
from superbatch.report.page import build_page
from superbatch.report.read import read_runs
from superbatch.report.speedup import compare_runs


SLY = [
    "<script>document.documentElement.dataset.owned = 1</script>",
    "</script><script>document.documentElement.dataset.owned = 1</script>",
    "\"><img src=x onerror='document.documentElement.dataset.owned = 1'>",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
]


class Outline(HTMLParser):
    """The tags of a page, its text, and what stands between its script tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self.addresses = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "script":
            self.scripts.append([attributes, ""])
        assert not [name for name in attributes if name.startswith("on")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.lasttag == "script":
            self.scripts[-1][1] += data
        self.text.append(data)


def page_of(folder, **options):
    runs = read_runs([folder])
    names = {run.recipe for run in runs}
    return build_page(
        runs, compare_runs(runs, baseline="uniform" if "uniform" in names else None), **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for recipe, rate in (("uniform", 1.0), ("classact", 1.4)):
            write_rich_run(root / f"{recipe}-seed{seed}", recipe=recipe, seed=seed, rate=rate)
    return root


def test_the_page_has_every_section_and_needs_nothing_else(folder):
    page = page_of(folder, open_examples=lambda config: MadeExamples(CLASSES))
    outline = Outline(page)
    text = " ".join(" ".join(outline.text).split())
    for heading in ("Numbers", "Curves", "Costs", "Selection", "Classes", "Gallery", "Settings"):
        assert f"{heading}" in text
    for group in ("Most wanted", "Least wanted", "Most often chosen", "Never chosen"):
        assert group in text
    assert "superbatch train classact --data.path data/digits --seed 1" in text
    assert outline.addresses
    assert all(address.startswith("data:") for address in outline.addresses)
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|//[a-z]+\.[a-z]+/",
        page.replace("http://www.w3.org/2000/svg", ""),
    )
    assert page.index("<h1>") < page.index("<h2")


def test_the_data_of_the_charts_is_json_with_every_axis(folder):
    outline = Outline(page_of(folder))
    attributes, text = outline.scripts[0]
    assert attributes["type"] == "application/json"
    data = json.loads(text)
    assert {axis["key"] for axis in data["main"]["axes"]} == {
        "step",
        "flops/full",
        "flops/paper",
        "seconds",
        "examples_learned",
        "examples_seen",
        "examples_unique",
    }
    assert [recipe["name"] for recipe in data["recipes"]] == ["uniform", "classact"]
    assert data["recipes"][0]["colour"] == 0


def test_text_of_runs_and_data_stays_text(tmp_path):
    for name, recipe in (("u", "uniform"), ("c", SLY[1])):
        folder = write_rich_run(
            tmp_path / name, recipe=recipe, seed=0, steps=40, class_names=[*SLY, *CLASSES[5:]]
        )
        environment = {"command": SLY[0], SLY[1]: SLY[2]}
        (folder / "environment.json").write_text(json.dumps(environment))
    plain = page_of(tmp_path, open_examples=lambda config: MadeExamples(CLASSES))
    sly = page_of(tmp_path, open_examples=lambda config: MadeExamples([*SLY, *CLASSES[5:]]))
    outline = Outline(sly)
    assert outline.tags.count("script") == 2
    assert "onerror" in "".join(outline.text)
    assert sorted(set(outline.tags)) == sorted(set(Outline(plain).tags))
    assert "49" not in [text.strip() for text in outline.text]
    json.loads(outline.scripts[0][1])


def test_captions_are_shown_as_text_and_whether_they_match(folder):
    long = "a very long caption " * 50
    captions = [*SLY, long, "a dog on a beach"]
    page = page_of(folder, open_examples=lambda config: MadePairs(captions))
    outline = Outline(page)
    plain = Outline(page_of(folder, open_examples=lambda config: MadePairs(["a dog"])))
    assert sorted(outline.tags) == sorted(plain.tags)
    text = " ".join(" ".join(outline.text).split())
    assert SLY[0] in text
    assert long.strip() in text
    assert "caption of another image" in text
    assert "its own caption" in text
    assert re.search(r"\d+ of 12 captions match", text)
    assert "than scored, by class" not in text


def test_pairs_that_matched_are_called_so_and_not_labels(folder, tmp_path):
    for name, task in (("labels", "classification"), ("pairs", "image_text")):
        run = write_rich_run(tmp_path / name, recipe="active_clip", seed=0, steps=40)
        config = json.loads((run / "config.json").read_text()) | {"task": task}
        (run / "config.json").write_text(json.dumps(config))
        page = page_of(run)
        assert ("Matched pairs" in page) == (name == "pairs")
        assert ("Clean labels" in page) == (name == "labels")


def test_only_the_pages_own_script_may_run(folder):
    page = page_of(folder)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-inline'" not in policy.split("script-src")[1]


def test_absent_data_is_said_and_the_rest_is_there(folder):
    def refuse(config):
        raise DataError("data/digits is not there & <b>gone</b>")

    page = page_of(folder, open_examples=refuse)
    assert "the data could not be opened (data/digits is not there &amp; &lt;b&gt;gone" in page
    assert "no picture" in page
    assert "Most wanted" in page
    assert "There are no pictures" in page_of(folder)


def test_pictures_that_break_while_reading_are_said(folder):
    class Broken(MadeExamples):
        def read(self, rows):
            raise DataError("13 of 48 images are broken")

    page = page_of(folder, open_examples=lambda config: Broken(CLASSES))
    assert "13 of 48 images are broken" in page
    assert "Most wanted" in page


@pytest.mark.parametrize("values", [{}, {10: 0.5}])
def test_a_run_that_has_only_begun_has_a_page(tmp_path, values):
    write_run(tmp_path / "u", values, steps=100, finished=False)
    write_run(tmp_path / "c", values, steps=100, recipe="c", finished=False)
    page = page_of(tmp_path)
    assert "is unfinished" in page
    assert "No run has finished yet" in page


def test_runs_without_a_baseline_have_a_page(tmp_path):
    write_rich_run(tmp_path / "c", recipe="classact", seed=0, steps=40)
    page = page_of(tmp_path)
    assert "There is no baseline among these runs" in page
    assert "updates saved" not in page


def test_metric_prefixes():
    assert si(0.0) == "0"
    assert si(999.4) == "999"
    assert si(999.6) == "1 k"
    assert si(1.2345e15, "FLOP") == "1.23 PFLOP"


@pytest.mark.slow
def test_a_million_selection_rows_make_a_small_page(tmp_path):
    write_rich_run(tmp_path / "u", recipe="uniform", seed=0, steps=4000)
    write_rich_run(
        tmp_path / "c", recipe="classact", seed=0, steps=4000, super_batch=256, pool=300_000
    )
    data = MadeExamples(CLASSES, pool=300_000)
    page = page_of(tmp_path, open_examples=lambda config: data)
    assert len(page.encode()) < 15e6
    scored = int(re.findall(r"([\d,]+) examples scored", page)[-1].replace(",", ""))
    # 1 024 000 draws from 300 000: all but exp(-3.41) of them.
    assert scored == pytest.approx(300_000 * (1 - np.exp(-1_024_000 / 300_000)), rel=0.01)
