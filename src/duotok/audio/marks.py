"""The mark of sounds that DuoTok wrote: their comment begins with `duotok `. Folders are searched for songs, and such a sound is none.

What `duotok songs` generates has no mark: these are songs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from duotok.audio.finding import SearchResult

MARK = "duotok "
SEPARATED = MARK + "separated"
"""What the comments of the stems of `duotok separate` begin with."""
SAMPLE = MARK + "sample"
"""The comment of what a training lets hear of itself."""
WRITTEN = "written by DuoTok"
"""The reason for which a search leaves such sounds out."""
SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus"))
"""Of the files that DuoTok writes, all of which can carry a comment."""
HEAD, TAIL = 4096, 256
"""Bytes of a file of which one has the comment."""


def comment_of(path: str | Path) -> str:
    """The comment in a sound file; "" where there is none, or no sound file."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return str(file.comment)
    except (RuntimeError, OSError):
        return ""


def mark_of(path: Path) -> str:
    """The comment of a sound that DuoTok wrote; "" for all others, of which hardly more than a block is read."""
    if path.suffix.lower() not in SUFFIXES:
        return ""
    try:
        with open(path, "rb") as file:
            ends = file.read(HEAD)
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            ends += file.read()
    except OSError:
        return ""
    comment = comment_of(path) if MARK.encode() in ends else ""
    return comment if comment.startswith(MARK) else ""


def without_marked(
    result: SearchResult, kept_too: Callable[[Path, str], bool] = lambda path, mark: False
) -> SearchResult:
    """The files of a search that DuoTok did not write; the others are left out. kept_too: which of them are not, by path and mark."""
    kept = SearchResult(left_out=result.left_out)
    for path in result.files:
        if (mark := mark_of(path)) and not kept_too(path, mark):
            kept.leave_out(WRITTEN, path)
        else:
            kept.files.append(path)
    return kept
