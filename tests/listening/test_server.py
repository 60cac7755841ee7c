"""The server: what it lets in, what it gives away."""

from __future__ import annotations

import re
import sqlite3
from itertools import pairwise
from typing import Any

import pytest
from tests.listening.ask import Answer, ask
from tests.page_reader import Page

from duotok.errors import MissingExtraError
from duotok.listening import ratings as ratings_module
from duotok.listening.order import trials
from duotok.listening.plan import REFERENCE, ListeningTest
from duotok.listening.ratings import RATINGS, Ratings
from duotok.listening.server import LARGEST_BODY, application, labels

pytest.importorskip("starlette")


class Served:
    def __init__(self, test: ListeningTest) -> None:
        self.test, self.ratings = test, Ratings(test, create=True)
        self.app = application(test, self.ratings)

    def begin(self) -> str:
        answer = ask(self.app, "POST", "/raters")
        assert answer.status == 303
        return answer.headers["location"].removeprefix("/r/")

    def get(self, address: str, **headers: str) -> Answer:
        return ask(self.app, "GET", address, headers=headers)

    def rate(self, token: str, place: int | str, score: Any = 4, heard: Any = 1.0, sound: str = "1") -> Answer:
        return ask(self.app, "PUT", f"/r/{token}/{place}", {"scores": {sound: score}, "heard": {sound: heard}})

    def scores(self) -> list[tuple[int, str, int]]:
        return [(one.rater, one.sound, one.score) for one in self.ratings.all()]


@pytest.fixture
def served(tested: ListeningTest) -> Served:
    return Served(tested)


@pytest.fixture
def mushra(tested: ListeningTest) -> Served:
    tested.plan = tested.plan.model_copy(update={"method": "mushra"})
    return Served(tested)


def test_a_session_from_begin_to_thanks(served: Served) -> None:
    token = served.begin()
    pages = trials(served.test, 1)
    for place, trial in enumerate(pages, 1):
        assert f"<h1>Clip {place} of {len(pages)}</h1>" in served.get(f"/r/{token}").text, (
            "goes on at the first that is not rated"
        )
        assert served.get(f"/r/{token}/{place}/sound/1").body == served.test.path(trial.sounds[0]).read_bytes()
        answer = served.rate(token, place, 1 + place % 5)
        assert answer.status == 200 and answer.json == {"saved": 1, "next": place + 1, "pages": len(pages)}
    assert "<h1>Thank you</h1>" in served.get(f"/r/{token}").text
    assert served.scores() == sorted((1, trial.sounds[0].id, 1 + place % 5) for place, trial in enumerate(pages, 1))


def test_another_server_goes_on(served: Served) -> None:
    token = served.begin()
    served.rate(token, 1, 2)
    again = Served(served.test)
    assert "<h1>Clip 2 of 9</h1>" in again.get(f"/r/{token}").text
    assert again.get("/", cookie=f"rater={token}").text.count(f"/r/{token}") == 1, "the first page knows its listener"
    assert "/r/" not in again.get("/", cookie="rater=unknown").text


def test_sent_twice_or_changed_counts_once(served: Served) -> None:
    token, other = served.begin(), served.begin()
    for score in (3, 3, 5):
        assert served.rate(token, 1, score).status == 200
    served.rate(other, 1, 2)
    assert sorted((rater, score) for rater, _, score in served.scores()) == [(1, 5), (2, 2)]
    assert re.search(r'value="5" checked', served.get(f"/r/{token}?clip=1").text), "going back shows what was given"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"scores": {"1": 6}, "heard": {"1": 1}}, 422, "from 1 to 5"),
        ({"scores": {"1": 0}, "heard": {"1": 1}}, 422, "from 1 to 5"),
        ({"scores": {"1": 3.5}, "heard": {"1": 1}}, 422, "whole number"),
        ({"scores": {"1": "3"}, "heard": {"1": 1}}, 422, "whole number"),
        ({"scores": {"1": True}, "heard": {"1": 1}}, 422, "whole number"),
        ({"scores": {"1": None}, "heard": {"1": 1}}, 422, "whole number"),
        ({"scores": {"2": 3}, "heard": {"2": 1}}, 404, "no sound '2'"),
        ({"scores": {"0": 3}, "heard": {"0": 1}}, 404, "no sound '0'"),
        ({"scores": {"0000001": 3}, "heard": {}}, 404, "no sound"),
        ({"scores": {"1": 3}, "heard": {}}, 409, "play at least 0.1 s"),
        ({"scores": {"1": 3}, "heard": {"1": 0.05}}, 409, "play at least"),
        ({"scores": {}, "heard": {}}, 400, "at least one"),
        ({"scores": [3], "heard": {}}, 400, "objects"),
        ({"scores": {"1": 3}}, 400, "send"),
        ([1, 2], 400, "send"),
        (b"{", 400, "no JSON"),
        (b'{"scores": {"1": NaN}, "heard": {"1": 1}}', 400, "no JSON"),
        (b"[" * 10_000, 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b" " * (LARGEST_BODY + 1), 413, "more than"),
    ],
)
def test_what_is_no_rating_is_refused(served: Served, body: Any, status: int, told: str) -> None:
    token = served.begin()
    answer = ask(served.app, "PUT", f"/r/{token}/1", body)
    assert (answer.status, told in answer.json["error"]) == (status, True), answer
    assert served.scores() == []


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("PUT", "/r/TOKEN/2", 409),
        ("PUT", "/r/TOKEN/10", 404),
        ("PUT", "/r/TOKEN/0", 404),
        ("PUT", "/r/TOKEN/-1", 404),
        ("PUT", "/r/TOKEN/99999999999999999999", 404),
        ("PUT", "/r/AAAAAAAAAAAAAAAAAAAAAA/1", 404),
        ("GET", "/r/AAAAAAAAAAAAAAAAAAAAAA", 404),
        ("GET", "/r/TOKEN?clip=2", 409),
        ("GET", "/r/TOKEN/1/sound/0", 404),
        ("GET", "/r/TOKEN/1/sound/2", 404),
        ("GET", "/r/TOKEN/2/sound/1", 409),
        ("GET", "/r/TOKEN/../test.json", 404),
        ("GET", "/test.json", 404),
        ("GET", "/ratings.sqlite", 404),
        ("POST", "/r/TOKEN/1", 405),
        ("GET", "/raters", 405),
    ],
)
def test_foreign_addresses(served: Served, method: str, address: str, status: int) -> None:
    token = served.begin()
    answer = ask(served.app, method, address.replace("TOKEN", token), {"scores": {"1": 3}, "heard": {"1": 1}})
    assert answer.status == status and served.scores() == []
    if answer.headers["content-type"].startswith("text/html"):
        assert "<h1>This does not work</h1>" in answer.text


def test_forms_of_other_sites_cannot_rate(served: Served) -> None:
    token = served.begin()
    answer = ask(
        served.app, "PUT", f"/r/{token}/1", {"scores": {"1": 3}, "heard": {"1": 1}}, {"content-type": "text/plain"}
    )
    assert answer.status == 415 and served.scores() == []


def test_nothing_on_the_wire_tells_a_condition(mushra: Served) -> None:
    token = mushra.begin()
    page = mushra.get(f"/r/{token}")
    words = {*mushra.test.conditions, *mushra.test.sounds, *mushra.test.clips, "sub/two", "vocals", "accompaniment"}
    seen = re.sub(r"<(style|script)>.*?</\1>", "", page.text, flags=re.S).replace("the reference itself", "")
    seen = re.sub(r"(the )?[Rr]eference", "", seen)
    assert [word for word in words if word in seen] == []
    sounds = [mushra.get(f"/r/{token}/1/sound/{place}") for place in range(4)]
    assert len({tuple(sorted(sound.headers.items())) for sound in sounds}) == 1, "also not the open reference"
    assert not {"etag", "last-modified", "content-disposition"} & {*sounds[0].headers}
    hidden = [s.system for s in trials(mushra.test, 1)[0].sounds].index(REFERENCE)
    assert sounds[0].body == sounds[1 + hidden].body and len({sound.body for sound in sounds}) == 3


def test_mushra_rates_a_page_at_once_or_sound_by_sound(mushra: Served) -> None:
    token = mushra.begin()
    assert mushra.rate(token, 1, 37, sound="2").json["next"] == 1
    assert 'data-score="37"' in mushra.get(f"/r/{token}").text
    both = {"scores": {"1": 0, "3": 100}, "heard": {"1": 1, "3": 1}}
    assert ask(mushra.app, "PUT", f"/r/{token}/1", both).json["next"] == 2
    assert sorted(score for _, _, score in mushra.scores()) == [0, 37, 100]
    assert mushra.rate(token, 1, 101).status == 422


@pytest.mark.parametrize("kind", ["begin", "mos", "mushra", "done", "refused"])
def test_pages_are_whole_named_and_alone(kind: str, tested: ListeningTest) -> None:
    """Labels, headings in order, a name for every control; nothing from elsewhere; titles escaped."""
    if kind == "mushra":
        tested.plan = tested.plan.model_copy(update={"method": "mushra"})
    served = Served(tested)
    token = served.begin()
    if kind == "done":
        for place in range(1, 10):
            served.rate(token, place)
    address = {"begin": "/", "refused": "/nowhere"}.get(kind, f"/r/{token}")
    answer = served.get(address)
    local = re.sub(r'(href|action)="/[^"]*"', r'\1="data:,"', answer.text)
    page = Page(local)
    assert "http:" not in local and "https:" not in local and "<test>" not in answer.text
    assert "duotok" not in re.sub(r"<(style|script)>.*?</\1>", "", answer.text, flags=re.S).lower(), (
        "no name that raises hopes"
    )
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert dict(page.tags)["html"]["lang"] == "en"
    buttons = [fields for tag, fields in page.tags if tag == "button"]
    assert all(fields.get("type") in ("button", "submit") for fields in buttons)
    assert all(fields.get("role") == "status" for _, fields in page.tags if fields.get("id") == "status")
    for header, part in (
        ("content-security-policy", "default-src 'none'"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ):
        assert part in answer.headers[header]
    assert answer.headers["content-security-policy"].find("http") < 0


def test_a_busy_or_broken_database_is_told_and_loses_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    token = served.begin()
    monkeypatch.setattr(ratings_module, "BUSY_SECONDS", 0.02)
    other = sqlite3.connect(served.test.folder / RATINGS, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answer = served.rate(token, 1, 5)
    assert answer.status == 503 and "try again" in answer.json["error"]
    other.execute("ROLLBACK")
    assert served.rate(token, 1, 5).status == 200 and len(served.scores()) == 1
    other.execute("DROP TABLE rating")
    other.close()
    assert served.rate(token, 1, 5).status == 503
    assert served.get(f"/r/{token}").status == 503


def test_labels() -> None:
    assert labels(3) == ["A", "B", "C"] and labels(28)[25:] == ["Z", "AA", "AB"]


def test_without_starlette_the_command_is_named(tested: ListeningTest, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtraError, match=r"duotok\[listen\]"):
        application(tested, Ratings(tested, create=True))
