"""The report of a comparison that really ran, three seeds, as a user makes it."""

import json

import pyarrow.parquet as pq
import pytest
from headless import CHROMIUM, Browser

from superbatch.cli import main


MODELS = ("--models.learner", "mu-1000/{}", "--models.online", "mu-2400/{}")


def compare(out, patch, *flags):
    models = [word.format(patch) for word in (*MODELS, "--models.reference", "mu-2400/{}")]
    sizes = ("--select.super-batch-size", "64", "--select.sub-batch-size", "32")
    every = ("--record.evaluate-every", "4", "--record.log-every", "2")
    plan = ("--seeds", "3", "--steps", "8", "--out", str(out))
    return main(["compare", "uniform", "classact", *plan, *models, *sizes, *every, *flags])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "compared"
    assert compare(out, 4, "--data.label-noise", "0.4") == 0
    return out


@pytest.fixture(scope="module")
def cifar10n(tmp_path_factory, real_data):
    out = tmp_path_factory.mktemp("cifar10n") / "compared"
    # A part of it: shape checks of every decoded image would make all of it slow.
    part = tmp_path_factory.mktemp("part") / "train.parquet"
    whole = pq.read_table(real_data / "cifar10n" / "train.parquet")
    pq.write_table(whole.slice(0, 2000), part)
    flags = ("--data.path", str(part), "--data.label", "label_worse", "--data.truth", "label")
    assert compare(out, 16, *flags) == 0
    return out


@pytest.mark.parametrize("runs", ["digits", "cifar10n"])
def test_the_report_of_real_runs(runs, request, tmp_path, capsys):
    out = request.getfixturevalue(runs)
    page = tmp_path / "report.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert main(["report", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in told["runs"]] == [0, 1, 2, 0, 1, 2]
    assert page.stat().st_size < 15e6
    if CHROMIUM is None:
        pytest.skip("the page was built; no chromium here to open it in")
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page)
        assert browser.complaints == []
        decoded = "Array.from(document.images).filter(i => i.naturalWidth > 0).length"
        assert browser.value("document.images.length") == browser.value(decoded) > 20
        assert browser.value("document.querySelectorAll('#diagnostics svg').length") >= 6
        shown = browser.value("document.querySelector('#diagnostics').textContent")
        assert "Agreement" in shown
        assert "Clean labels" in shown
    finally:
        browser.close()
