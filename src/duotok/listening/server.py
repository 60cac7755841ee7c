"""The pages of a listening test over HTTP (ASGI, Starlette): what a rater sees, hears and sends.

Addresses name a rater by a random token, a page by its place in the rater's own order, and a sound by its place on that page;
no answer tells a file, a system, a length or a date by which sounds could be told apart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotok.errors import MissingExtraError
from duotok.listening.order import Trial, trials
from duotok.listening.plan import ListeningTest, Sound
from duotok.listening.ratings import Busy, Ratings
from duotok.listening.scale import GRADES, RANGES, word_of
from duotok.pages.rendering import render
from duotok.seals import read_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TEMPLATES = Path(__file__).parent / "templates"
LARGEST_BODY = 16_384
COOKIE = "rater"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "media-src blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that cannot be answered as asked: the status, and one line that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Session:
    """One rater: the number, all pages in order, and what is rated."""

    def __init__(self, number: int, pages: tuple[Trial, ...], scores: dict[str, int]) -> None:
        self.number, self.pages, self.scores = number, pages, scores

    @property
    def next(self) -> int:
        """The first page (from 1) that is not rated; one more than there are when all are."""
        for place, page in enumerate(self.pages, 1):
            if any(sound.id not in self.scores for sound in page.sounds):
                return place
        return len(self.pages) + 1

    def page(self, place: str) -> tuple[int, Trial]:
        """The page of an address. Raises Refused for one that there is not, or whose turn has not come."""
        number = _place(place, len(self.pages))
        if number is None:
            raise Refused(404, f"there is no page {place[:20]!r}; this test has 1 to {len(self.pages)}")
        if number > self.next:
            raise Refused(409, f"page {number} comes after page {self.next}, which is not rated yet")
        return number, self.pages[number - 1]


def application(test: ListeningTest, ratings: Ratings) -> Starlette:
    """The ASGI application of one test. Raises MissingExtraError without Starlette."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise MissingExtraError(
            "listening tests are served by starlette and uvicorn: pip install 'duotok[listen]'"
        ) from None

    order = lru_cache(maxsize=256)(lambda number: trials(test, number))
    low, high = RANGES[test.plan.method]

    def session(token: str) -> Session:
        number = ratings.number(token)
        if number is None:
            raise Refused(404, "this address belongs to no listener of this test; begin again")
        return Session(number, order(number), ratings.of(number))

    def page(name: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(render(TEMPLATES / name, test=test.plan, **values), status)

    def begin(request: Request) -> Response:
        known = request.cookies.get(COOKIE, "")
        if ratings.number(known) is None:
            known = ""
        pages = order(1)
        sounds = sum(len(trial.sounds) for trial in pages)
        minutes = round(sounds * (test.plan.clips[0].seconds + 6) / 60 + 1)
        return page("begin.html.j2", known=known, pages=len(pages), minutes=minutes, grades=GRADES)

    def new(request: Request) -> Response:
        token = ratings.new_rater()
        answer = RedirectResponse(f"/r/{token}", 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="lax", max_age=90 * 86_400)
        return answer

    def rate(request: Request) -> Response:
        token = request.path_params["token"]
        found = session(token)
        place = request.query_params.get("clip", "")
        if not place and found.next > len(found.pages):
            return page("done.html.j2", pages=len(found.pages), token=token)
        number, trial = found.page(place or str(found.next))
        sounds = [
            (label, found.scores.get(sound.id))
            for label, sound in zip(labels(len(trial.sounds)), trial.sounds, strict=True)
        ]
        words = [word_of(score) for score in range(101)] if test.plan.method == "mushra" else []
        return page(
            f"{test.plan.method}.html.j2", number=number, pages=len(found.pages), token=token, sounds=sounds, grades=GRADES,
            words=words, clip=trial.clip, onward=f"?clip={number + 1}" if number < min(found.next, len(found.pages)) else "",
        )  # fmt: skip

    def sound(request: Request) -> Response:
        _, trial = session(request.path_params["token"]).page(request.path_params["clip"])
        chosen = _sound_at(trial, request.path_params["sound"])
        # no date and no tag of the file: only bytes, as many for every sound of a clip
        return Response(test.path(chosen).read_bytes(), media_type="audio/wav")

    def level(request: Request) -> Response:
        return Response(test.level.read_bytes(), media_type="audio/wav")

    def save(token: str, place: str, body: bytes) -> Response:
        found = session(token)
        _, trial = found.page(place)
        scores = _scores(body, trial, low, high, test.plan.must_hear)
        ratings.save(found.number, scores)
        found.scores.update(scores)
        return JSONResponse({"saved": len(scores), "next": found.next, "pages": len(found.pages)})

    async def put(request: Request) -> Response:
        body = await _body(request)
        return await run_in_threadpool(save, request.path_params["token"], request.path_params["clip"], body)

    def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, Refused):
            status, why = error.status, error.why
        elif isinstance(error, Busy):
            status, why = 503, "the ratings are in use by another program for the moment; try again"
        elif isinstance(error, HTTPException):
            status, why = error.status_code, error.detail
        else:
            status, why = 503, "the ratings cannot be written on the server's side; tell the people who run the test"
        if request.method == "GET" and "/sound/" not in request.url.path and request.url.path != "/level":
            return page("refused.html.j2", status, why=why)
        return JSONResponse({"error": why}, status)

    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    return Starlette(
        routes=[
            Route("/", begin),
            Route("/level", level),
            Route("/raters", new, methods=["POST"]),
            Route("/r/{token}", rate),
            Route("/r/{token}/{clip}", put, methods=["PUT"]),
            Route("/r/{token}/{clip}/sound/{sound}", sound),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guarded)],
        exception_handlers={
            Refused: refused,
            Busy: refused,
            sqlite3.Error: refused,
            OSError: refused,
            HTTPException: refused,
        },
    )


def labels(count: int) -> list[str]:
    """A, B, ... Z, AA, AB, ..."""
    return [(chr(64 + place // 26) if place >= 26 else "") + chr(65 + place % 26) for place in range(count)]


def _sound_at(trial: Trial, place: str) -> Sound:
    """The sound of an address: its place on the page from 1, or 0 for the open reference."""
    if place == "0" and trial.reference is not None:
        return trial.reference
    number = _place(place, len(trial.sounds))
    if number is None:
        raise Refused(404, f"there is no sound {place[:20]!r} on this page")
    return trial.sounds[number - 1]


def _place(text: str, most: int) -> int | None:
    """The number from 1 to `most` that a text is, None for any other text."""
    if len(text) > 6 or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        return None
    return int(text)


async def _body(request: Request) -> bytes:
    """The body, at most `LARGEST_BODY` of it in memory. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "send ratings as application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise Refused(413, f"more than {LARGEST_BODY} bytes; a page of ratings is smaller")
        parts.append(part)
    return b"".join(parts)


def _scores(body: bytes, trial: Trial, low: int, high: int, must_hear: float) -> dict[str, int]:
    """Sound -> score of a body `{"scores": {"1": 4}, "heard": {"1": 6.2}}`: place on the page -> score, seconds played.

    Raises Refused: 400 for what is no such JSON, 404 for a sound that is not on the page, 422 for a score that is none, 409 for a
    sound that was not played.
    """
    try:
        values = read_json(body)
    except ValueError as error:
        raise Refused(400, f"no JSON: {error}") from None
    if not isinstance(values, dict) or set(values) != {"scores", "heard"}:
        raise Refused(400, 'send {"scores": {PLACE: SCORE}, "heard": {PLACE: SECONDS}}')
    scores, heard = values["scores"], values["heard"]
    if not isinstance(scores, dict) or not isinstance(heard, dict) or not scores:
        raise Refused(400, "scores and heard are objects, and there is at least one score")
    found = {}
    for place, score in scores.items():
        if (number := _place(place, len(trial.sounds))) is None:
            raise Refused(404, f"there is no sound {place[:20]!r} on this page")
        if isinstance(score, bool) or not isinstance(score, int) or not low <= score <= high:
            raise Refused(422, f"sound {place}: a score is a whole number from {low} to {high}")
        seconds = heard.get(place)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < must_hear:
            raise Refused(409, f"sound {place}: play at least {must_hear:g} s of it before rating it")
        found[trial.sounds[number - 1].id] = score
    return found
