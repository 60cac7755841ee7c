"""Sounds that DuoTok wrote are known by their comment, in every format; everything that writes a sound gives it one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.tiny import song

import duotok
from duotok.audio import io, marks
from duotok.audio.finding import search

SONGS_OR_SCRATCH = {"songs/song.py", "lyrics/transcribers.py", "audio/io.py"}
"""What is written there is a song, is gone after the run, or is the writer itself."""


@pytest.mark.parametrize("suffix", sorted(marks.SUFFIXES))
def test_the_mark_is_read_from_every_format(suffix: str, tmp_path: Path) -> None:
    assert set(io.WRITE_SUFFIXES) == marks.SUFFIXES
    for comment in ("duotok demo", "duotok " + "x" * 200, "duotokens are nice", "by duotok demo", ""):
        path = tmp_path / f"{len(comment)}{suffix}"
        io.write(path, song(0.5), 48_000, comment=comment)
        assert marks.comment_of(path) == comment
        assert marks.mark_of(path) == (comment if comment.startswith("duotok ") else "")


def test_what_is_no_sound_has_no_mark(tmp_path: Path) -> None:
    for name, data in (("a.wav", b"duotok demo"), ("b.flac", b""), ("c.txt", b"duotok demo")):
        (tmp_path / name).write_bytes(data)
        assert marks.mark_of(tmp_path / name) == ""
    assert marks.mark_of(tmp_path / "nowhere.wav") == marks.mark_of(tmp_path) == ""


def test_a_search_leaves_them_out_and_counts_them(tmp_path: Path) -> None:
    for name, comment in (("a.wav", "duotok demo"), ("b.wav", ""), ("c.wav", "duotok separated")):
        io.write(tmp_path / name, song(0.1), 48_000, comment=comment)
    found = marks.without_marked(search(tmp_path))
    assert [path.name for path in found.files] == ["b.wav"]
    assert found.summary() == f"2 written by DuoTok ({tmp_path / 'a.wav'}, {tmp_path / 'c.wav'})"
    kept = marks.without_marked(search(tmp_path), lambda path, mark: mark == "duotok separated")
    assert [path.name for path in kept.files] == ["b.wav", "c.wav"]


def test_everything_that_writes_a_sound_marks_it() -> None:
    root = Path(duotok.__file__).parent
    writers = 0
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "duotok.audio.io"
            for alias in node.names
        } & {"write", "Writer", "write_samples"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
                writers += 1
                marked = any(keyword.arg == "comment" for keyword in node.keywords)
                assert marked or path.relative_to(root).as_posix() in SONGS_OR_SCRATCH, f"{path}, line {node.lineno}"
    assert writers > 10
