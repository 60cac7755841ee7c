"""LRC: lines with time tags, `[offset:]`, lines sung several times, and word times (`<mm:ss.xx>` or inner `[mm:ss.xx]`)."""

from __future__ import annotations

import re

from duotok.lyrics.repair import LONGEST_LINE, Draft
from duotok.lyrics.types import LyricLine
from duotok.lyrics.words import Piece, language_code, words_of_pieces

_CLOCK = r"(\d{1,4}):(\d{1,2})(?:[.:](\d{1,3}))?"
_LINE_TAG = re.compile(rf"\[{_CLOCK}\]")
_ANY_TAG = re.compile(rf"[\[<]{_CLOCK}[\]>]")
_HEADER = re.compile(r"\[([A-Za-z#]\w*)\s*:(.*)\]\s*$")
# Credits that Chinese services put before the song as if they were sung.
_CREDIT = re.compile(
    r"(作词|作曲|编曲|词|曲|制作人|监制|混音|录音|母带|出品|和声|吉他|贝斯|鼓|键盘|演唱|原唱)[^:：]{0,4}[:：]"
)

LAST_WORD = 1.5
"""Seconds of a last word without an end."""

TIMED = re.compile(rf"^\s*\[{_CLOCK}\]", re.MULTILINE)
"""Identifies a file of this format."""


def _seconds(match: re.Match[str], offset: float) -> float:
    minutes, seconds, fraction = match.groups()
    return int(minutes) * 60 + int(seconds) + (float(f"0.{fraction}") if fraction else 0.0) - offset


def parse(text: str) -> Draft:
    """Lines in order of time. A positive offset (milliseconds) makes words earlier, as in players."""
    headers: dict[str, str] = {}
    rows = []
    lost = 0
    for row in text.splitlines():
        header = _HEADER.match(row.strip())
        if header:
            headers[header[1].lower()] = header[2].strip()
        elif _LINE_TAG.match(row.strip()):
            rows.append(row.strip())
        else:
            lost += any(c.isalnum() for c in row)
    try:
        offset = float(headers.get("offset", "0").replace("+", "") or 0) / 1000
    except ValueError:
        offset = 0.0
    timed: list[tuple[float, str, float]] = []
    for row in rows:
        times, rest = [], row
        while match := _LINE_TAG.match(rest):
            times.append(_seconds(match, offset))
            rest = rest[match.end() :]
            rest = rest.lstrip() if _LINE_TAG.match(rest.lstrip()) else rest
        # The word times of a line that is sung several times are those of one of its times.
        word = _ANY_TAG.search(rest)
        base = max((t for t in times if word and t <= _seconds(word, offset)), default=times[0])
        if word:  # a time within the line is that of its first word: no line is sung again before it ends
            lasts = _seconds([*_ANY_TAG.finditer(rest)][-1], offset) - base
            times = [base, *(t for t in times if abs(t - base) >= max(lasts, 0.01))]
        timed.extend((time, rest, offset - (time - base)) for time in times)
    timed.sort(key=lambda entry: entry[0])
    texts = [" ".join(_ANY_TAG.sub("", rest).split()) for _, rest, _ in timed]
    lines: list[LyricLine] = []
    credits = 0
    for i, (start, rest, shifted) in enumerate(timed):
        if _CREDIT.match(texts[i]):
            credits += 1
        elif texts[i]:
            later = next((j for j in range(i + 1, len(timed)) if timed[j][0] > start), None)
            following = None if later is None else timed[later][0]
            # An empty line states where the one before ends; the start of a later line is only an upper bound.
            end = following if later is not None and not texts[later] else None
            last = end if end is not None or following is None else min(following, start + LONGEST_LINE)
            words = words_of_pieces(_pieces(start, rest, last, shifted)) if _ANY_TAG.search(rest) else []
            lines.append(LyricLine(texts[i], start, end, tuple(words)))
    notes = [f"{credits} x credit line, left out"] if credits else []
    notes += [f"{lost} x line without a time, left out"] if lost else []
    language = language_code(headers.get("la", headers.get("lang", headers.get("language", ""))))
    return Draft(lines, language, "lrc", notes)


def _pieces(start: float, rest: str, end: float | None, offset: float) -> list[Piece]:
    """Stretches of text between time tags; a last one without a tag after it ends with the line, or LAST_WORD later."""
    tags = list(_ANY_TAG.finditer(rest))
    marks = [(start, 0), *((_seconds(tag, offset), tag.end()) for tag in tags)]
    stops = [*((_seconds(tag, offset), tag.start()) for tag in tags), (None, len(rest))]
    pieces: list[Piece] = []
    for (time, begin), (until, stop) in zip(marks, stops, strict=True):
        text = rest[begin:stop]
        if text.strip():
            if until is None and end is not None:
                until = min(end, time + LAST_WORD)
            pieces.append((text, time, until))
        elif pieces and text:
            pieces[-1] = (pieces[-1][0] + " ", *pieces[-1][1:])
    return pieces
