"""UltraStar song files: notes in beats with syllables (https://usdx.eu/format); relative mode, duets, changes of tempo."""

from __future__ import annotations

import math
import re

from duotok.lyrics.repair import Draft
from duotok.lyrics.types import LyricLine, LyricsError
from duotok.lyrics.words import Piece, language_code, line_of, words_of_pieces

_NUMBER = r"(-?\d{1,9})"
_NOTE = re.compile(rf"[:*FRG]\s*{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}(?:\s(.*))?$")
_BREAK = re.compile(rf"-\s*{_NUMBER}(?:\s+{_NUMBER})?\s*$")
_TEMPO = re.compile(rf"B\s*{_NUMBER}\s+(\d{{1,6}}(?:[.,]\d{{1,6}})?)\s*$")
NOTES = re.compile(r"^[:*FRG]\s*-?\d+\s+\d+\s+-?\d+", re.MULTILINE)
"""Identifies a file of this format, together with a #BPM."""


class _Clock:
    """Beats to seconds: four of the file's beats to a quarter of `#BPM`, from `#GAP` milliseconds on."""

    def __init__(self, bpm: float, gap: float) -> None:
        self._changes = [(0, gap / 1000, 15 / bpm)]

    def change(self, beat: int, bpm: float) -> None:
        self._changes.append((beat, self(beat), 15 / bpm))

    def __call__(self, beat: int) -> float:
        first, time, length = next((c for c in reversed(self._changes) if beat >= c[0]), self._changes[0])
        return time + (beat - first) * length


def _number(headers: dict[str, str], tag: str, default: float | None, name: str) -> float:
    text = headers.get(tag, "").replace(",", ".")
    try:
        value = float(text) if text else default
    except ValueError:
        value = None
    if value is None or not math.isfinite(value) or (tag == "BPM" and value <= 0):
        raise LyricsError(f"{name}: #{tag} is '{headers.get(tag, '')}', not a number; fix the file")
    return value


def parse(text: str, name: str) -> Draft:
    """Lines as in the file; each voice of a duet has its own. Raises LyricsError without a usable #BPM or #GAP."""
    headers: dict[str, str] = {}
    for row in text.splitlines():
        tag, colon, value = row.strip().lstrip("\ufeff").partition(":")
        if tag.startswith("#") and colon:
            headers.setdefault(tag[1:].strip().upper(), value.strip())
    clock = _Clock(_number(headers, "BPM", None, name), _number(headers, "GAP", 0.0, name))
    relative = headers.get("RELATIVE", "").lower() in ("yes", "true", "1")
    lines: list[LyricLine] = []
    pieces: list[Piece] = []
    shift = unread = 0

    def close() -> None:
        words = words_of_pieces(pieces)
        if words:
            lines.append(line_of(words))
        pieces.clear()

    for row in text.splitlines():
        row = row.lstrip()
        if note := _NOTE.match(row):
            start, length, syllable = int(note[1]) + shift, int(note[2]), note[4] or ""
            # A tilde prolongs the vowel before it and has no text of its own.
            pieces.append((syllable.replace("~", ""), clock(start), clock(start + length)))
        elif stop := _BREAK.match(row):
            close()
            shift += int(stop[2] or stop[1]) if relative else 0
        elif change := _TEMPO.match(row):
            bpm = float(change[2].replace(",", "."))
            if bpm > 0:
                clock.change(int(change[1]) + shift, bpm)
        elif re.match(r"P\s*\d", row):
            close()
            shift = 0
        elif row.rstrip() == "E":
            break
        elif row.strip() and not row.startswith(("#", "\ufeff")):
            unread += 1
    close()
    notes = [f"{unread} x line that is no note, left out"] if unread else []
    lines.sort(key=lambda line: line.start or 0.0)  # a duet's voices follow each other in the file
    return Draft(lines, language_code(headers.get("LANGUAGE", "")), "ultrastar", notes)
