"""Ratings in SQLite: a number for each rater, a score for each rater and sound, and nothing else.

One row for a rater and a sound, whatever is sent twice or late; the last score counts, and how often it was changed is kept.
Each answer of the server follows a commit that is on the disk (write-ahead log, full synchronisation), so that a kill or a
power cut loses nothing that a rater was told is saved.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from duotok.errors import DuoTokError
from duotok.listening.plan import ListeningTest

RATINGS = "ratings.sqlite"
FORMAT = "1"
BUSY_SECONDS = 5.0
TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rater (number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS rating (
  rater INTEGER NOT NULL REFERENCES rater(number), sound TEXT NOT NULL,
  score INTEGER NOT NULL, changes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (rater, sound)
) WITHOUT ROWID;
"""


class Busy(Exception):
    """Another program holds the database."""


@dataclass(frozen=True)
class Rating:
    """A score of a rater (by number) for a sound; changes: how often another score was there before."""

    rater: int
    sound: str
    score: int
    changes: int


class Ratings:
    """The ratings of one test. Every call opens the file for itself, so any thread or process may call."""

    def __init__(self, test: ListeningTest, create: bool = False) -> None:
        """Raises DuoTokError when the file is damaged, of another test or version, cannot be written, or (without `create`) is
        not there."""
        self.path = test.folder / RATINGS
        if not create and not self.path.is_file():
            raise DuoTokError(f"{self.path}: no ratings yet; duotok listen serve {test.folder} collects them")
        with self._told(), self._open() as database:
            if create:
                database.executescript(_TABLES)
                database.execute("BEGIN IMMEDIATE")
                for entry in {"format": FORMAT, "test": test.identity}.items():
                    database.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", entry)
                database.execute("COMMIT")
            if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its pages do not fit together")
            about = dict(database.execute("SELECT key, value FROM about").fetchall())
        if about.get("format") != FORMAT:
            raise DuoTokError(
                f"{self.path}: ratings of format {about.get('format')}, and this DuoTok reads {FORMAT}; use the one that made them"
            )
        if about.get("test") != test.identity:
            raise DuoTokError(f"{self.path}: ratings of another test; move them back to the folder that they came from")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what SQLite says into one line."""
        try:
            yield
        except Busy:
            raise DuoTokError(f"{self.path}: locked by another program; close it and try again") from None
        except sqlite3.Error as error:
            raise DuoTokError(
                f"{self.path}: cannot be used ({error}); restore it from a copy, or serve a copy of the test in a folder that can be written"
            ) from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Raises Busy, sqlite3.Error."""
        try:
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=FULL")
                database.execute("PRAGMA foreign_keys=ON")
                yield database
            finally:
                database.close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Busy from None
            raise

    def new_rater(self) -> str:
        """The token of a new rater: 128 random bits. Raises Busy, sqlite3.Error."""
        token = secrets.token_urlsafe(16)
        with self._open() as database:
            database.execute("INSERT INTO rater (token) VALUES (?)", (token,))
        return token

    def number(self, token: str) -> int | None:
        """The number of a rater, None for a token that is not known. Raises Busy, sqlite3.Error."""
        if not TOKEN.fullmatch(token):
            return None
        with self._open() as database:
            row = database.execute("SELECT number FROM rater WHERE token = ?", (token,)).fetchone()
        return row[0] if row else None

    def of(self, rater: int) -> dict[str, int]:
        """Sound -> score of one rater. Raises Busy, sqlite3.Error."""
        with self._open() as database:
            return dict(database.execute("SELECT sound, score FROM rating WHERE rater = ?", (rater,)).fetchall())

    def save(self, rater: int, scores: Mapping[str, int]) -> None:
        """Keep all of these scores or none; a score that is there already changes nothing. Raises Busy, sqlite3.Error."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT INTO rating (rater, sound, score) VALUES (?, ?, ?) ON CONFLICT (rater, sound) DO UPDATE "
                "SET score = excluded.score, changes = changes + 1 WHERE score != excluded.score",
                [(rater, sound, score) for sound, score in scores.items()],
            )
            database.execute("COMMIT")

    def all(self) -> list[Rating]:
        """Every rating, by rater and sound. Raises DuoTokError."""
        with self._told(), self._open() as database:
            rows = database.execute("SELECT rater, sound, score, changes FROM rating ORDER BY rater, sound").fetchall()
        return [Rating(*row) for row in rows]
