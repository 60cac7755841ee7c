"""Asks an ASGI application without a network, and makes plans of tests without sounds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

from duotok.listening.plan import REFERENCE, Clip, ListeningTest, Sound, TestPlan
from duotok.listening.scale import Method


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(app: Any, method: str, address: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """body: bytes, or what is sent as JSON."""
    path, _, query = address.partition("?")
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = {"content-type": "application/json", "host": "test", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": ("test", 80),
        "client": ("192.0.2.1", 1), "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    told: list[dict[str, Any]] = []
    parts = [data[place : place + 4096] for place in range(0, len(data), 4096)] or [b""]

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return Answer(told[0]["status"], found, b"".join(part.get("body", b"") for part in told[1:]))


def plan_of(
    songs: int = 8, systems: tuple[str, ...] = ("good", "poor"), method: Method = "mos", tracks: tuple[str, ...] = ("vocals", "mix"),
    folder: Path = Path("nowhere"), **changes: Any,
) -> ListeningTest:  # fmt: skip
    """A test without sounds: for orders, ratings and figures."""
    clips = [
        Clip(id=f"c{song}{track}", song=f"song {song}", track=track, start=1.0, seconds=4.0)
        for song in range(songs)
        for track in tracks
    ]
    sounds = [
        Sound(id=f"{clip.id}-{name}", clip=clip.id, system=name, sha256="0", gain_db=0.0, source="0")
        for clip in clips
        for name in (REFERENCE, *systems, "lowpass-3500")
    ]
    values: dict[str, Any] = {
        "format": 1, "made_by": "duotok test", "title": "A test", "method": method, "seed": 3, "sample_rate": 48_000,
        "lufs": -23.0, "must_hear": 1.0, "clips_per_rater": 0, "systems": systems,
        "descriptions": {name: f"system {name}" for name in systems}, "anchors": {"lowpass-3500": 3500.0}, "level": "0",
        "clips": clips, "sounds": sounds, **changes,
    }  # fmt: skip
    return ListeningTest(folder, TestPlan(**values), "f" * 64)
