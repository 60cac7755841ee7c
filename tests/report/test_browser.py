"""The report in a real browser, where there is Chromium: nothing is cut off, on a phone neither, whatever tokenizers are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.demo.browser import Browser
from tests.report.stores import MEL, cell, fill, study

from duotok.evaluation.store import write_cell
from duotok.report.page import make, write
from duotok.report.sources import gather

LONG = "averylongnamewithoutanyblanksatallthatsomebodygavetohistokenizerat44100hz"
# In the page: `linesOf` a text; `contrast` of two colours as WCAG has it.
HELP = """
globalThis.all = query => [...document.querySelectorAll(query)];
globalThis.linesOf = text => { const range = document.createRange(); range.selectNode(text); return range.getClientRects().length; };
globalThis.light = text => text.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
globalThis.contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
null
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    fill(folder / "store")
    study(folder / "study")
    write_cell(folder / "store", cell(LONG, "reconstruction", [replace(MEL, name="normalized_entropy"), MEL], ["mix"]))
    write(make(gather([folder / "store", folder / "study"]), "duotok report"), [folder / "report.html"])
    return folder / "report.html"


def opened(chromium: Browser, page: Path, width: int) -> Browser:
    chromium.session = ""
    chromium.open(page, width)
    chromium.run(HELP)
    return chromium


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_a_name_without_blanks_makes_no_page_wider(chromium: Browser, page: Path, width: int) -> None:
    there = opened(chromium, page, width)
    assert there.run("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]
    widest = "Math.max(...all('tbody th[scope=row]').map(th => th.offsetWidth))"
    assert there.run(widest) < 0.45 * width, "the column of names leaves room for figures"


def test_on_a_phone_what_is_cut_off_can_be_seen(chromium: Browser, page: Path) -> None:
    there = opened(chromium, page, 390)
    captions = (
        "all('caption:not(.under)').map(c => [c.innerText, (c.firstElementChild || c).getBoundingClientRect().right])"
    )
    found = there.run(captions)
    assert found and all(right <= 390 for _, right in found), "a caption is read without scrolling"
    shade = "getComputedStyle(document.querySelector('.wide.more table')).backgroundColor"
    assert there.run(shade) == "rgba(0, 0, 0, 0)", "the shadow of more columns lies under no table"
    named = "all('tbody th[scope=row]').filter(th => ['WavTokenizer', 'SemantiCodec'].includes(th.textContent))"
    lines = f"{named}.map(th => linesOf(th.firstChild))"
    assert set(there.run(lines)) == {1}, "no common name is broken"


def test_letters_stand_out(chromium: Browser, page: Path) -> None:
    there = opened(chromium, page, 1200)
    for query in ("nav a", "summary", ".interval", "tbody.paper th", "code"):
        colour = f"getComputedStyle(document.querySelector('{query}')).color"
        assert there.run(f"contrast({colour}, getComputedStyle(document.body).backgroundColor)") >= 4.5, query
