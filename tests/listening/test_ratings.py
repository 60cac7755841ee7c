"""Ratings: nothing lost, nothing twice, nothing foreign."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.listening.ask import plan_of

from duotok.errors import DuoTokError
from duotok.listening import ratings as module
from duotok.listening.plan import ListeningTest
from duotok.listening.ratings import RATINGS, Busy, Rating, Ratings


@pytest.fixture
def test(tmp_path: Path) -> ListeningTest:
    return plan_of(folder=tmp_path)


def test_the_last_score_counts_once(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)
    ratings.new_rater()
    for score in (3, 3, 4, 4, 2):
        ratings.save(1, {"a": score, "b": 5})
    assert Ratings(test).all() == [Rating(1, "a", 2, 2), Rating(1, "b", 5, 0)]


def test_raters_have_numbers_and_tokens_that_cannot_be_guessed(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)
    tokens = [ratings.new_rater() for _ in range(3)]
    assert [ratings.number(token) for token in tokens] == [1, 2, 3] and len({*tokens}) == 3
    assert all(
        ratings.number(odd) is None for odd in ("", "1", "x" * 22, tokens[0] + "x", "' OR 1=1 --", tokens[0][:-1])
    )


def test_nothing_but_ratings_is_kept(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)
    ratings.new_rater()
    ratings.save(1, {"a": 3})
    with sqlite3.connect(test.folder / RATINGS) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = {row[1] for table in tables for row in database.execute(f"PRAGMA table_info({table})")}
    assert tables - {"sqlite_sequence"} == {"about", "rater", "rating"}
    assert columns - {"name", "seq"} == {"key", "value", "number", "token", "rater", "sound", "score", "changes"}


def test_many_at_once(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)

    def rate(_: int) -> int:
        number = ratings.number(ratings.new_rater())
        assert number is not None
        for place in range(5):
            ratings.save(number, {f"s{place}": 1 + place})
            ratings.save(number, {f"s{place}": 1 + place})
        return number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(rate, range(8)))
    assert sorted(numbers) == list(range(1, 9))
    assert ratings.all() == [Rating(number, f"s{place}", 1 + place, 0) for number in range(1, 9) for place in range(5)]


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("INSERT INTO rating VALUES (1, 'half', 1, 0)")
os.kill(os.getpid(), 9)
"""


def test_a_kill_keeps_what_was_saved_and_nothing_half(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)
    ratings.new_rater()
    ratings.save(1, {"a": 3})
    done = subprocess.run([sys.executable, "-S", "-c", KILLED, str(ratings.path)], check=False)
    assert done.returncode == -9
    ratings.save(1, {"b": 4})
    assert [(one.sound, one.score) for one in Ratings(test).all()] == [("a", 3), ("b", 4)]


def test_all_scores_of_a_page_or_none(test: ListeningTest) -> None:
    ratings = Ratings(test, create=True)
    with pytest.raises(sqlite3.IntegrityError):
        ratings.save(7, {"a": 3, "b": 4})  # there is no such rater
    assert ratings.all() == []


def test_a_locked_database_is_told(test: ListeningTest, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = Ratings(test, create=True)
    ratings.new_rater()
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(ratings.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Busy):
        ratings.save(1, {"a": 3})
    assert ratings.all() == [], "reading goes on"
    with pytest.raises(DuoTokError, match="locked by another program"):
        Ratings(test, create=True)
    other.execute("ROLLBACK")
    ratings.save(1, {"a": 3})
    other.close()


def test_damage_and_strangers(test: ListeningTest) -> None:
    with pytest.raises(DuoTokError, match="no ratings yet; duotok listen serve"):
        Ratings(test)
    ratings = Ratings(test, create=True)
    test.identity = "0" * 64
    with pytest.raises(DuoTokError, match="ratings of another test"):
        Ratings(test, create=True)
    with sqlite3.connect(ratings.path) as database:
        database.execute("UPDATE about SET value = '2' WHERE key = 'format'")
    with pytest.raises(DuoTokError, match="ratings of format 2"):
        Ratings(test)
    database.close()
    for end in ("", "-wal", "-shm"):
        Path(f"{ratings.path}{end}").unlink(missing_ok=True)
    ratings.path.write_bytes(b"not a database, whatever it is called" * 50)
    with pytest.raises(DuoTokError, match="cannot be used") as caught:
        Ratings(test)
    assert str(ratings.path) in str(caught.value) and "\n" not in str(caught.value)
