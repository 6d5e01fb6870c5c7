import pytest
from headless import CHROMIUM, Browser
from made_runs import CLASSES, MadeExamples, MadePairs, write_rich_run
from test_report_page import SLY, page_of


pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; Debian has it as the package chromium"
)

SWITCHES = "Array.from(document.querySelectorAll('[data-switch] button'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three recipes, two seeds, and names that try to be code."""
    root = tmp_path_factory.mktemp("runs")
    names = [*SLY, *CLASSES[5:]]
    for seed in (0, 1):
        for recipe in ("uniform", "classact", SLY[1]):
            folder = root / f"{'sly' if recipe in SLY else recipe}-seed{seed}"
            write_rich_run(folder, recipe=recipe, seed=seed, steps=100, class_names=names)
    path = root / "report.html"
    path.write_text(page_of(root, open_examples=lambda config: MadeExamples(names)))
    return path


def test_the_page_opens_from_disk_without_a_complaint(browser, page):
    browser.open(page)
    assert browser.complaints == []
    assert browser.value("document.documentElement.dataset.ready") == "true"
    assert browser.value("document.querySelectorAll('#main-chart path').length") >= 3
    assert browser.value("document.querySelectorAll('#diagnostics svg').length") >= 6


def test_injected_scripts_stay_text(browser, page):
    browser.open(page)
    assert browser.value("document.documentElement.dataset.owned") is None
    assert browser.value("document.scripts.length") == 2
    assert SLY[0] in browser.value("document.querySelector('#classes').parentNode.textContent")
    assert SLY[1] in browser.value("document.querySelector('#main-controls').textContent")
    assert browser.value("document.querySelectorAll('img:not([src^=data])').length") == 0


@pytest.fixture(scope="module")
def page_of_pairs(tmp_path_factory):
    """Captions that try to be code, that are long, and that are read from the right."""
    root = tmp_path_factory.mktemp("pairs")
    write_rich_run(root / "clip", recipe="uniform", seed=0, steps=100)
    write_rich_run(root / "active", recipe="classact", seed=0, steps=100)
    captions = [*SLY, "a dog " * 300, "x" * 500, "كلب يجري", "two dogs run on the beach"]
    path = root / "report.html"
    path.write_text(page_of(root, open_examples=lambda config: MadePairs(captions)))
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_captions_are_text_and_take_a_few_lines(browser, page_of_pairs, width):
    browser.open(page_of_pairs, width=width)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.complaints == []
    assert browser.value("document.documentElement.dataset.owned") is None
    assert browser.value("document.scripts.length") == 2
    captions = "Array.from(document.querySelectorAll('.gallery .caption'))"
    assert browser.value(f"{captions}.length") == 48
    assert SLY[0] in browser.value(f"{captions}.map(c => c.textContent)")
    # Five lines of 13 px at 1.3.
    assert browser.value(f"Math.max(...{captions}.map(c => c.clientHeight))") <= 85
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_every_switch_changes_what_is_drawn(browser, page):
    browser.open(page)
    shown = "document.getElementById('main-chart').innerHTML"
    names = browser.value(
        f"{SWITCHES}.map(b => b.parentNode.dataset.switch + '=' + b.dataset.value)"
    )
    assert {"axis=flops/full", "axis=examples_unique", "view=smooth", "lines=seeds"} <= set(names)
    for index, name in enumerate(names):
        before = browser.value(shown)
        pressed = browser.value(f"{SWITCHES}[{index}].ariaPressed")
        browser.value(f"{SWITCHES}[{index}].click()")
        after = browser.value(shown)
        is_choice = not name.startswith("recipe=")
        assert (before == after) == (is_choice and pressed == "true"), name
        assert browser.value(f"{SWITCHES}[{index}].ariaPressed") == str(is_choice).lower(), name
    pick = "document.querySelector('select[data-switch=metric]')"
    metrics = browser.value(f"Array.from({pick}.options).map(o => o.value)")
    assert {"val/accuracy", "val/loss", "learner/loss"} <= set(metrics)
    for button in range(len(names)):
        if names[button].startswith("recipe="):
            browser.value(f"{SWITCHES}[{button}].click()")
    for metric in metrics:
        browser.value(f"{pick}.value = '{metric}'; {pick}.dispatchEvent(new Event('change'))")
        assert browser.value("document.getElementById('main-chart').dataset.shown").startswith(
            metric
        )
        assert browser.value("document.querySelectorAll('#main-chart path').length") >= 1, metric
    assert browser.complaints == []


def test_pointing_at_the_chart_reads_its_values(browser, page):
    browser.open(page, width=1200)
    place = browser.value(
        "(() => { const r = document.querySelector('#main-chart svg').getBoundingClientRect();"
        "window.scrollTo(0, r.top); const s = document.querySelector('#main-chart svg')"
        ".getBoundingClientRect(); return [s.left + s.width / 2, s.top + s.height / 2]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    tip = browser.value("document.querySelector('#main-chart .tip').innerText")
    assert "learner updates" in tip
    assert "classact" in tip


def test_pictures_decode(browser, page):
    browser.open(page)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    widths = browser.value("Array.from(document.images).map(i => i.complete && i.naturalWidth)")
    assert len(widths) >= 48
    assert set(widths) == {8}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 768, 1400])
def test_nothing_scrolls_sideways(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    spill = (
        "Array.from(document.querySelectorAll('main *')).filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert browser.value(spill) == 0


def test_the_theme_follows_the_reader(browser, page):
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    browser.open(page, dark=False)
    light = browser.value(colour)
    browser.open(page, dark=True)
    assert browser.value(colour) != light


def test_charts_fit_again_when_the_window_changes(browser, page):
    browser.open(page, width=1400)
    browser.resize(600, 900)
    box = "document.getElementById('main-chart')"
    width = browser.value(
        f"new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => "
        f"done(Number({box}.querySelector('svg').viewBox.baseVal.width)))))",
    )
    assert width == browser.value(f"{box}.clientWidth")
