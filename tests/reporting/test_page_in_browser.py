"""The page in a real browser, headless Chromium."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.reporting.rows import read_rows
from pipeline.reporting.tables import write_table
from tests.browser import Browser, complaints, needs_chromium
from tests.reporting.conftest import write_page

COMMITTED = Path(__file__).parents[2] / "reports" / "embedded" / "index.html"
WIDTHS = (390, 820, 1280)

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, make_reports: Callable[[Path], Path]) -> Path:
    """The page of every table, with a table's files beside it."""
    folder = make_reports(tmp_path_factory.mktemp("reports") / "embedded")
    for path in (folder / "metrics").glob("*.json"):
        write_table(path.stem, read_rows(path), reports_dir=folder)
    curves = {
        "loss/supervised": [(step, 1 / step) for step in range(1, 40)],
        "val/teacher_miou": [(20, 50.0), (40, 60.0)],
    }
    return write_page(folder, curves=lambda train_key: curves)


@pytest.fixture(params=["made for the tests", "committed"])
def any_page(request: pytest.FixtureRequest, page: Path) -> Path:
    """The page of the fixtures, and the one that readers see in the repository."""
    return page if request.param == "made for the tests" else COMMITTED


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_loads_quietly_asks_for_nothing_and_never_overflows(
    browser: Browser, any_page: Path, width: int, scheme: str
) -> None:
    browser.open(any_page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert complaints(browser) == []
    sent = [event["params"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent]
    assert [url for url in asked if not url.startswith("data:")] == [any_page.as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_and_figure_can_be_reached_inside_its_scroller(
    browser: Browser, any_page: Path, width: int
) -> None:
    browser.open(any_page, width=width)
    script = """[...document.querySelectorAll('table, figure svg')].filter(each => {
        const box = each.closest('.scroll');
        return box === null || each.getBoundingClientRect().width > box.scrollWidth + 1 }).length"""
    assert browser.run(script) == 0
    assert browser.run("document.querySelectorAll('.scroll:not([tabindex=\"0\"])').length") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_no_number_covers_another(browser: Browser, any_page: Path, width: int) -> None:
    browser.open(any_page, width=width)
    script = """(() => {
        let found = 0;
        for (const row of document.querySelectorAll('.results tbody tr')) {
            const boxes = [...row.querySelectorAll('td .value')].map(each => each.getBoundingClientRect());
            for (let i = 1; i < boxes.length; i++) if (boxes[i].left < boxes[i - 1].right + 2) found++;
        }
        return found })()"""
    assert browser.run(script) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_no_mark_below_a_table_covers_its_meaning(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    script = """[...document.querySelectorAll('.legend li')].filter(each => {
        const range = document.createRange(); range.selectNodeContents(each.firstElementChild);
        return range.getBoundingClientRect().right > each.lastElementChild.getBoundingClientRect().left }).length"""
    assert browser.run(script) == 0


def test_every_number_the_reader_sees_is_the_one_of_the_csv(browser: Browser, any_page: Path) -> None:
    browser.open(any_page)
    seen = browser.run(
        """Object.fromEntries([...document.querySelectorAll('td.ours')].map(
        e => [e.dataset.cell, e.querySelector('.value').innerText]))"""
    )
    for path in (any_page.parent / "tables").glob("table_*.csv"):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [name for name in frame.columns if name.endswith(")")]
        for line, record in frame.iterrows():
            for index, column in enumerate(columns):
                assert seen.pop(f"{path.stem}-{line}-{index}") == (record[column] or "–")
    assert set(seen) == {"table_7-0-0", "table_7-0-1"} or not seen


def test_every_link_leads_somewhere(browser: Browser, any_page: Path) -> None:
    browser.open(any_page)
    for link in browser.run("[...document.querySelectorAll('a')].map(e => e.getAttribute('href'))"):
        if link.startswith("#"):
            assert browser.run(f"document.getElementById({link[1:]!r}) !== null"), link
        else:
            assert (any_page.parent / link).exists(), link


def test_a_number_opens_its_provenance_by_keyboard_and_escape_closes_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    row = read_rows(page.parent / "metrics" / "table_a6.json")[0]
    browser.run("document.querySelector('[popovertarget=\"table_a6-0-0\"]').focus()")
    browser.press("Enter")
    shown = browser.run("document.querySelector(':popover-open').innerText")
    assert row["key"] in shown
    assert row["provenance"]["commit"] in shown
    browser.press("Tab")
    assert browser.run("document.activeElement.closest(':popover-open') !== null")
    browser.press("Escape")
    assert browser.run("document.querySelector(':popover-open') === null")
    assert browser.run("document.activeElement.getAttribute('popovertarget')") == "table_a6-0-0"


def test_a_screen_reader_hears_what_a_number_is(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node}
    buttons = [name for role, name in names if role == "button"]
    assert any(name.endswith("; where CutMix, 1/8 (1323) comes from") for name in buttons)
    assert any(", best of its column;" in name for name in buttons)
    assert ("table", "Table 2 Methods on VOC blender") in names
    images = [name for role, name in names if role in ("image", "img")]
    assert images
    assert all(len(name) > 20 for name in images)
    browser.send("Accessibility.disable")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_schemes(browser: Browser, page: Path, scheme: str) -> None:
    """WCAG AA asks for a contrast of 4.5 to 1."""
    browser.open(page, scheme=scheme)
    script = """(() => {
        const linear = value => value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
        const light = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(value => linear(value / 255));
            return .2126 * r + .7152 * g + .0722 * b };
        const ground = light(getComputedStyle(document.body).backgroundColor);
        const contrast = name => {
            const ink = light(getComputedStyle(document.querySelector(name)).color);
            return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05) };
        const names = ['h1', '.lead', '.caption', '.paper .value', '.ours .value', '.gain:not(.noise)', '.gain.noise',
            'a', '.legend', '.banner strong', '.hole', 'figcaption', 'footer'];
        return Object.fromEntries(names.map(name => [name, contrast(name)])) })()"""
    for name, contrast in browser.run(script).items():
        assert contrast >= 4.5, name


def test_print_shows_whole_tables_in_ink_without_controls(browser: Browser, page: Path) -> None:
    browser.open(page, media="print", scheme="dark")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert browser.run("getComputedStyle(document.querySelector('.provenance')).display") == "none"
    browser.open(page, media="")
    pdf = base64.b64decode(browser.send("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert 5 < pdf.count(b"/Type /Page\n") < 60
