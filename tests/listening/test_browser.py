"""A whole session in a real browser, where there is Chromium: played, rated, reloaded, the server killed, two raters at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.demo.browser import Browser
from tests.listening import simulated
from tests.listening.ask import plan_of

from duotok.errors import DuoTokError
from duotok.listening.analysis import analyse
from duotok.listening.order import trials
from duotok.listening.plan import ListeningTest
from duotok.listening.ratings import Ratings
from duotok.listening.report import page
from duotok.listening.server import application
from duotok.listening.serving import address_of, listen_on

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


class Server:
    """`duotok listen serve` in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        words = [sys.executable, "-m", "duotok", "listen", "serve", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert f"http://127.0.0.1:{port}/" in line, line

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


def free_port() -> int:
    with listen_on("127.0.0.1", 0) as opened:
        return int(opened.getsockname()[1])


def play(page: Browser) -> None:
    """Press play and wait until the grades can be chosen."""
    page.until("document.querySelector('button.play')?.textContent === 'Play'")
    assert page.run("document.querySelector('fieldset').disabled"), "nothing can be rated before it was heard"
    page.run("document.querySelector('button.play').click()")
    page.until("!document.querySelector('fieldset').disabled")


def rate(page: Browser, score: int, times: int = 1) -> None:
    page.run(f"document.querySelector('input[value=\"{score}\"]').click()")
    page.run(f"for (let i = 0; i < {times}; i++) document.querySelector('[type=submit]').click()")


def test_two_listeners_and_a_server_that_is_killed(chromium: Browser, tested: ListeningTest) -> None:
    port = free_port()
    server = Server(tested.folder, port)
    try:
        listeners = []
        for width in (1200, 390):
            chromium.session = ""
            chromium.open(f"http://127.0.0.1:{port}/", width)
            chromium.run("document.querySelector('button.main').click()")
            chromium.until(
                "document.title === 'Clip 1 of 9' && document.querySelector('button.play')?.textContent === 'Play'"
            )
            assert chromium.run("document.activeElement.getAttribute('aria-label')") == "Play the clip", (
                "where keys begin"
            )
            assert chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
            listeners.append(chromium.session)
        chromium.run("document.querySelector('[type=submit]').click()")
        assert "Play the clip first" in chromium.run("document.querySelector('[role=status]').textContent")
        for rater, session in enumerate(listeners):
            chromium.session = session
            chromium.call("Page.bringToFront")
            play(chromium)
            rate(chromium, 1 + rater, times=3)
            chromium.until("document.title === 'Clip 2 of 9'")
        chromium.call("Page.reload")
        chromium.until("document.title === 'Clip 2 of 9' && document.readyState === 'complete'")
        play(chromium)
        server.end(signal.SIGKILL)
        rate(chromium, 5)
        chromium.until("document.querySelector('[role=status]').textContent.includes('the server does not answer')")
        assert chromium.run("document.querySelector('input:checked').value") == "5", "what was chosen is still there"
        server = Server(tested.folder, port)
        with pytest.raises(DuoTokError, match=f"port {port} on 127.0.0.1: in use; choose another with --port"):
            listen_on("127.0.0.1", port)
        chromium.run("document.querySelector('[type=submit]').click()")
        chromium.until("document.title === 'Clip 3 of 9'")
        assert chromium.errors == []
        code, told = server.end(signal.SIGINT)
        assert code == 0 and "3 ratings of 2 raters" in told and "Traceback" not in told, told
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()
    first, second = (trials(tested, rater) for rater in (1, 2))
    assert [(one.rater, one.sound, one.score, one.changes) for one in Ratings(tested).all()] == sorted(
        [(1, first[0].sounds[0].id, 1, 0), (2, second[0].sounds[0].id, 2, 0), (2, second[1].sounds[0].id, 5, 0)]
    )


@contextmanager
def served_here(test: ListeningTest) -> Iterator[str]:
    """The server in a thread of this process; its address."""
    import uvicorn

    opened = listen_on("127.0.0.1", 0)
    app = application(test, Ratings(test, create=True))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield address_of(opened)
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


def test_mushra_by_keys(chromium: Browser, tested: ListeningTest) -> None:
    """Sliders are saved as they are set, stay after a reload, and all of a page are needed."""
    tested.plan = tested.plan.model_copy(update={"method": "mushra"})
    slider = "document.querySelectorAll('[data-of]')"
    with served_here(tested) as address:
        chromium.session = ""
        chromium.open(address, 390)
        chromium.run("document.querySelector('button.main').click()")
        chromium.until("document.querySelectorAll('button.play').length === 4")
        chromium.until("[...document.querySelectorAll('button.play')].every(b => b.textContent === 'Play')")
        assert chromium.run("document.activeElement.getAttribute('aria-label')") == "Play the reference"
        assert chromium.run(f"[...{slider}].every(s => s.disabled && s.getAttribute('aria-valuetext') === 'not rated')")
        for place in (0, 2):
            chromium.run(f"document.querySelectorAll('button.play')[{place + 1}].click()")
            chromium.until(f"!{slider}[{place}].disabled")
            assert (
                chromium.run(
                    "[...document.querySelectorAll('button.play')].filter(b => b.textContent === 'Pause').length"
                )
                <= 1
            )
            chromium.run(f"{slider}[{place}].focus()")
            chromium.press("End" if place else "ArrowRight", 35 if place else 39)
            chromium.until("document.querySelector('[role=status]').textContent.endsWith('saved.')")
            chromium.run("document.querySelector('[role=status]').textContent = ''")
        chromium.run("document.querySelector('[type=submit]').click()")
        assert "Play sound B first" in chromium.run("document.querySelector('[role=status]').textContent")
        chromium.call("Page.reload")
        chromium.until(
            "document.readyState === 'complete' && document.querySelectorAll('output')[2]?.textContent !== ''"
        )
        texts = chromium.run(f"[...{slider}].map(s => s.getAttribute('aria-valuetext'))")
        assert texts == ["51, Fair", "not rated", "100, Excellent"]
        chromium.until("document.querySelectorAll('button.play')[2].textContent === 'Play'")
        chromium.run("document.querySelectorAll('button.play')[2].click()")
        chromium.until(f"!{slider}[1].disabled")
        chromium.run(f"{slider}[1].focus()")
        chromium.press("Home", 36)
        chromium.run("document.querySelector('[type=submit]').click()")
        chromium.until("document.title === 'Page 2 of 3'")
        assert chromium.errors == []
    order = [sound.id for sound in trials(tested, 1)[0].sounds]
    given = {one.sound: (one.score, one.changes) for one in Ratings(tested).all()}
    assert given == dict(zip(order, [(51, 0), (0, 0), (100, 0)], strict=True))


# In the page: the first rating that is sent stays on the way while the next ones go ahead.
SLOW = """
const ask = globalThis.fetch; let first = true;
globalThis.fetch = async (...what) => {
  if (what[1]?.method === "PUT" && first) { first = false; await new Promise(done => setTimeout(done, 500)); }
  return ask(...what);
};
null
"""


@pytest.mark.parametrize("keys", [["ArrowRight", "ArrowRight"], ["ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight"]])
def test_what_stands_at_the_slider_is_what_is_kept(chromium: Browser, tested: ListeningTest, keys: list[str]) -> None:
    """Held keys move a slider faster than ratings arrive: the last place counts, also where it was there before."""
    tested.plan = tested.plan.model_copy(update={"method": "mushra"})
    slider = "document.querySelector('[data-of]')"
    with served_here(tested) as address:
        chromium.session = ""
        chromium.open(address)
        chromium.run("document.querySelector('button.main').click()")
        chromium.until("document.querySelectorAll('button.play').length === 4")
        chromium.until("[...document.querySelectorAll('button.play')].every(b => b.textContent === 'Play')")
        chromium.run("document.querySelectorAll('button.play')[1].click()")
        chromium.until(f"!{slider}.disabled")
        chromium.run(f"{slider}.value = 50, {slider}.dispatchEvent(new Event('change'))")
        chromium.until("kept.get('1') === 50")
        chromium.run(SLOW)
        chromium.run(f"{slider}.focus()")
        for key in keys:
            chromium.press(key, 39 if key == "ArrowRight" else 37)
        shown = 52 if keys[-2:] == ["ArrowRight", "ArrowRight"] else 50
        assert chromium.run(f"{slider}.value") == str(shown)
        chromium.run("new Promise(done => setTimeout(done, 700))")
        chromium.until("wanted.size === 0")
        assert chromium.run("kept.get('1')") == shown
    assert [one.score for one in Ratings(tested).all()] == [shown]


def test_who_goes_back_takes_the_rating_along(chromium: Browser, tested: ListeningTest) -> None:
    """Also one that waits for the one before it."""
    tested.plan = tested.plan.model_copy(update={"method": "mushra"})
    ratings = Ratings(tested, create=True)
    token = ratings.new_rater()
    first, second, *_ = trials(tested, 1)
    ratings.save(1, {sound.id: 50 for sound in first.sounds})
    with served_here(tested) as address:
        chromium.session = ""
        chromium.open(f"{address}r/{token}")
        chromium.until("[...document.querySelectorAll('button.play')].every(b => b.textContent === 'Play')")
        chromium.run("document.querySelectorAll('button.play')[1].click()")
        chromium.until("!document.querySelector('[data-of]').disabled")
        chromium.run(SLOW)
        chromium.run("document.querySelector('[data-of]').focus()")
        for _ in range(2):
            chromium.press("ArrowRight", 39)
        chromium.run("document.querySelector('form a').click()")
        chromium.until("document.title === 'Page 1 of 3'")
    given = {one.sound: one.score for one in Ratings(tested).all()}
    assert given[second.sounds[0].id] == 52


def test_the_report_on_a_phone_and_on_paper(chromium: Browser, tmp_path: Path) -> None:
    test = plan_of(songs=6, systems=("a-name-that-is-rather-long", "poor"), tracks=("vocals", "accompaniment", "mix"))
    found = analyse(
        test, simulated.ratings(test, dict.fromkeys(test.conditions, 4.0) | {"lowpass-3500": 1.0}, 7, noise=0.1)
    )
    (tmp_path / "index.html").write_text(page(found, "0"))
    chromium.session = ""
    chromium.open(tmp_path / "index.html", 390)
    chromium.run("document.querySelector('.wide').scrollLeft = 200")
    chromium.until("document.querySelector('.wide').scrollLeft > 100")
    first = "document.querySelector('.wide tbody td').getBoundingClientRect().left"
    assert 0 <= chromium.run(first) < 40, "the name of a row stays where its figures are looked at"
    chromium.open(tmp_path / "index.html", 700)  # A4 upright within its margins
    chromium.call("Emulation.setEmulatedMedia", media="print")
    ends = chromium.run("[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)")
    assert ends and max(ends) <= 700, "paper does not scroll"
    chromium.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://localhost:")])
def test_addresses(host: str, shown: str) -> None:
    with listen_on(host, 0) as opened:
        assert address_of(opened).startswith(shown)


def test_hosts_that_are_none() -> None:
    with pytest.raises(DuoTokError, match="--host"):
        listen_on("no.such.host.invalid", 0)
