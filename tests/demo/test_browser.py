"""The report page in a real browser, where there is Chromium: what a listener does, by mouse and by key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.demo.browser import Browser
from tests.tiny import song, tiny_bundle
from typer.testing import CliRunner

from duotok.audio.io import write
from duotok.cli.main import app

SECONDS = 20.0
# In the page: `drag` does what dragging a player's slider does; `play` is where it plays from; `runs`: the mixer gets to a place.
HELP = """
globalThis.sound = [...document.querySelectorAll("audio")];
globalThis.once = (i, name) => new Promise(done => sound[i].addEventListener(name, done, {once: true}));
globalThis.drag = async (i, t) => { const there = once(i, "seeked"); sound[i].currentTime = t; await there; };
globalThis.play = async i => { const runs = once(i, "timeupdate"); await sound[i].play(); await runs; return sound[i].currentTime; };
globalThis.place = query => { const e = document.querySelector(query); e.scrollIntoView({block: "center"});
  const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; };
globalThis.runs = async t => { while (mixer.playing && now < t) await rest(20); return mixer.playing; };
globalThis.light = text => { const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(v => v / (text.startsWith("color(") ? 1 : 255))
  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
globalThis.contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
globalThis.rest = ms => new Promise(done => setTimeout(done, ms));
null
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write(folder / "song.wav", song(SECONDS), 48_000)
    bundle = tiny_bundle(folder / "bundle")
    words = ["demo", str(folder / "song.wav"), "-o", str(folder / "out"), "--model", str(bundle), "--steps", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return folder / "out" / "index.html"


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Iterator[Browser]:
    chromium.session = ""
    chromium.open(page)
    chromium.run(HELP)
    yield chromium
    assert chromium.errors == []


def test_a_player_goes_on_where_the_other_was_or_where_it_was_dragged(opened: Browser) -> None:
    """Vocals before (2, A) and after (3, B)."""
    opened.run("drag(2, 6)")
    assert 6 <= opened.run("play(2)") < 12
    assert 6 <= opened.run("play(3)") < 13 and opened.run("sound[2].paused"), "B goes on where A was"
    opened.run("play(2)")
    opened.run("drag(3, 15)")
    assert 15 <= opened.run("play(3)") < 18 and opened.run("sound[2].paused"), "B plays from where it was dragged"
    assert 15 <= opened.run("play(2)") < 20, "and A goes on from there"


def test_pictures_are_sliders(opened: Browser) -> None:
    opened.run("document.querySelectorAll('.view')[2].focus()")
    for key, code, place in (
        ("End", 35, "20.0"),
        ("Home", 36, "0.0"),
        ("PageUp", 33, "10.0"),
        ("ArrowLeft", 37, "9.0"),
    ):
        opened.press(key, code)
        assert opened.run("document.activeElement.getAttribute('aria-valuenow')") == place, key
    opened.press("Enter", 13)
    assert 9 <= opened.run("once(2, 'timeupdate').then(() => sound[2].currentTime)") < 12
    opened.press(" ", 32)
    assert opened.run("sound[2].paused")
    opened.click(*opened.run("place('.card.vocals .view')"))
    assert 9.9 < opened.run("once(2, 'timeupdate').then(() => sound[2].currentTime)") < 13


def test_the_mixer_plays_in_step_and_switches(opened: Browser) -> None:
    opened.click(*opened.run("place('#mixer .play')"))
    opened.run("(async () => { while (!mixer.playing) await rest(20); })()")
    assert opened.run("runs(0.2)")
    assert [gain > 0 for gain in opened.run("mixer.gains()")] == [True, False, True, False]
    opened.click(*opened.run("place('#mixer [value=out]')"))
    assert [gain > 0 for gain in opened.run("mixer.gains()")] == [False, True, False, True]
    assert opened.run("now") >= 0.2 and opened.run("runs(now + 0.1)"), "and the music runs on"
    opened.click(*opened.run("place('#mixer [aria-label=\"mute vocals\"]')"))
    assert [gain > 0 for gain in opened.run("mixer.gains()")] == [False, False, False, True]
    assert opened.run("document.querySelector('[aria-label=\"mute vocals\"]').getAttribute('aria-pressed')") == "true"
    assert opened.run("play(0)") > 0.3 and not opened.run("mixer.playing"), "a player takes over from the mixer"


def test_names_as_screen_readers_have_them(opened: Browser) -> None:
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
    players = [name for role, name in named if role == "Audio"]
    assert len(players) == 9 == len(set(players)) and "Vocals, decoded" in players
    assert {("slider", "position in the song; spectrogram of Vocals, decoded"), ("button", "solo vocals")} <= set(named)
    assert {("region", "distances"), ("image", "how often each code is used")} <= set(named)
    assert [role for role, name in named if role in ("image", "slider", "button", "region") and not name] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_mixer_can_be_read(opened: Browser, scheme: str) -> None:
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened.run("document.querySelectorAll('#mixer [data-what]').forEach(button => button.click())")
    read = "[...document.querySelectorAll(`{of}`)].map(e => contrast(getComputedStyle(e).color, getComputedStyle(e.closest(`{on}`)).backgroundColor))"
    texts = read.format(of="#mixer .track b", on="#mixer")
    buttons = read.format(of="#mixer [aria-pressed=true]", on="button")
    assert len(opened.run(buttons)) == 4 and min(opened.run(buttons) + opened.run(texts)) >= 4.5
    opened.call("Emulation.setEmulatedMedia", features=[])


def test_columns_have_names_and_code_takes_keys(opened: Browser) -> None:
    assert opened.run("[...document.querySelectorAll('th')].filter(th => !th.textContent.trim()).length") == 0
    assert opened.run("document.querySelector('pre').tabIndex") == 0, "it scrolls on a phone"


def test_on_a_phone_tables_scroll_and_the_page_does_not(chromium: Browser, page: Path) -> None:
    chromium.session = ""
    chromium.open(page, width=320)
    assert chromium.run("document.documentElement.scrollWidth") == 320
    cut = chromium.run(
        "[...document.querySelectorAll('.wide')].map(w => [w.scrollWidth > w.clientWidth + 1, w.classList.contains('more')])"
    )
    assert all(wide == told for wide, told in cut)
    chromium.run("document.querySelector('.wide').style.width = '150px', dispatchEvent(new Event('resize'))")
    hint = "getComputedStyle(document.querySelector('.wide'), '::after').content"
    assert "scroll sideways" in chromium.run(hint)
