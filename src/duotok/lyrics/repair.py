"""Repair the times of lyrics: the last step of reading any format.

Afterwards words and lines are in order and do not overlap, none is empty or of no length, all lie inside the recording,
and either every line has times or none has. Repairs are counted and listed in `notes`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from duotok.lyrics.types import LyricLine, Lyrics, LyricsError, SungWord
from duotok.lyrics.words import guess_language, join_words, line_of, lines_by_pauses, share, split_words

SHORTEST = 0.01
"""Seconds; a shorter word or line has no length."""
SHORTEST_LINE = 0.3
LONGEST_LINE = 12.0
"""Seconds of a line whose end is not stated and whose successor is far away."""
ZERO_WORD = 0.1
"""Seconds given to a word of no length, where there is room."""
SLACK = 1e-3
"""Seconds of overlap that are rounding."""
TOLERANCE = 0.1
"""Seconds by which an end may pass the recording's without a note."""


Times = tuple[float | None, float | None]


@dataclass
class Draft:
    """Lyrics as a format's reader parsed them; notes: what it left out on purpose (no fault of the file)."""

    lines: list[LyricLine]
    language: str = ""
    source: str = "text"
    notes: list[str] = field(default_factory=list)


class _Faults:
    """Faults by kind: how many, and the first one."""

    def __init__(self, name: str, strict: bool) -> None:
        self._name, self._strict = name, strict
        self._counts: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, text: str, time: float | None = None) -> None:
        where = f"'{text[:40]}'" + ("" if time is None else f" at {time:.2f} s")
        if self._strict:
            raise LyricsError(f"{self._name}: {kind} ({where}); fix the file, or read it without strict")
        count, first = self._counts.get(kind, (0, where))
        self._counts[kind] = (count + 1, first)

    @property
    def notes(self) -> list[str]:
        return [f"{count} x {kind} (first: {where})" for kind, (count, where) in self._counts.items()]


def repair(
    draft: Draft,
    name: str,
    seconds: float | None = None,
    start: float = 0.0,
    strict: bool = False,
    may_be_empty: bool = False,
) -> Lyrics:
    """Lyrics with valid times. `start`: second of the file where the recording begins; `seconds`: its length.

    strict: raises LyricsError at the first fault instead of repairing it. Raises LyricsError when no word is left, unless that `may_be_empty`.
    """
    faults = _Faults(name, strict)
    lines = []
    for line in draft.lines:
        words, text = _texts(line)
        if not words:
            faults.add("line without words, left out", line.text, line.start)
            continue
        inside = _clip_to_recording(replace(line, text=text, words=tuple(words)), seconds, start, faults)
        if inside is not None:
            lines.append(_repair_line(inside, math.inf if seconds is None else seconds, faults))
    lines = _order_lines(_time_untimed_lines(_with_line_ends(lines, seconds), faults), faults)
    if not lines and not may_be_empty:
        raise LyricsError(f"{name}: no lyrics {'inside the recording' if draft.lines else 'in it'}; check the file")
    text = "\n".join(line.text for line in lines)
    language = draft.language or guess_language(text) or None
    return Lyrics(tuple(map(_rounded, lines)), language, draft.source, tuple(draft.notes + faults.notes))


# -- one line --------------------------------------------------------------------------------------------------------


def _texts(line: LyricLine) -> tuple[list[SungWord], str]:
    """Words with letters, each without white space, and the line's text; separate punctuation marks join the word before them."""
    text = " ".join(line.text.split())
    source_words = list(line.words) or [SungWord(word) for word in split_words(text)]
    words: list[SungWord] = []
    for word in source_words:
        plain = "".join(word.text.split())
        if any(c.isalnum() for c in plain):
            words.append(replace(word, text=plain))
        elif plain and words:
            words[-1] = replace(words[-1], text=words[-1].text + plain)
    return words, text or join_words(w.text for w in words)


def _clip_to_recording(line: LyricLine, seconds: float | None, start: float, faults: _Faults) -> LyricLine | None:
    """The line with its times counted from `start`; what lies outside the recording is left out.

    In a part of a song (start > 0) that is no fault.
    """
    limit = math.inf if seconds is None else seconds
    inside_words: list[SungWord] = []
    for word in line.words:
        first, last = _shifted(word.start, word.end, start)
        if _outside(first, last, limit):
            if not start:
                faults.add("word beyond the recording, left out", word.text, word.start)
            continue
        if not start and first is not None and last is not None and last > limit + TOLERANCE:
            faults.add("word passing the recording's end, cut", word.text, word.start)
        inside_words.append(SungWord(word.text, *_clipped(first, last, limit)))
    if not inside_words:
        return None
    first, last = _shifted(line.start, line.end, start)
    if _outside(first, last, limit):
        if all(word.start is None for word in inside_words):
            if not start:
                faults.add("line beyond the recording, left out", line.text, line.start)
            return None
        first = last = None
    text = line.text if len(inside_words) == len(line.words) else join_words(w.text for w in inside_words)
    return LyricLine(text, *_clipped(first, last, limit), tuple(inside_words))


def _shifted(first: float | None, last: float | None, start: float) -> Times:
    """Times counted from `start`; times that are no numbers are unknown, and so is an end without a start."""
    if first is None or not math.isfinite(first):
        return None, None
    return first - start, None if last is None or not math.isfinite(last) else last - start


def _outside(first: float | None, last: float | None, limit: float) -> bool:
    if first is None:
        return False
    return first > limit - SHORTEST or (first < 0 and (first if last is None else last) <= 0)


def _clipped(first: float | None, last: float | None, limit: float) -> Times:
    return None if first is None else max(0.0, first), None if last is None else min(last, limit)


def _repair_line(line: LyricLine, limit: float, faults: _Faults) -> LyricLine:
    """Repaired word times of one line: in order, with lengths, without overlaps, none after `limit`, gaps filled."""
    words = list(line.words)
    timed = [i for i, w in enumerate(words) if w.start is not None]
    if not timed:
        return line
    for i in set(timed) - set(_longest_nondecreasing(words, timed)):
        faults.add("word out of order, its times taken from its neighbours", words[i].text, words[i].start)
        words[i] = SungWord(words[i].text)
    timed = [i for i in timed if words[i].start is not None]
    for i, after in zip(timed, [*timed[1:], None], strict=True):
        following = limit if after is None else words[after].start or 0.0
        words[i] = _with_end(words[i], following, line.end if after is None else None, faults)
    missing = [w for w in words if w.start is None]
    if missing:
        faults.add("word without times, put between its neighbours", missing[0].text)
        words = _fill_gaps(words, line)
    return LyricLine(line.text, words[0].start, words[-1].end, tuple(words))


def _longest_nondecreasing(words: Sequence[SungWord], timed: Sequence[int]) -> list[int]:
    """Indices of the longest subsequence of `timed` whose starts do not decrease."""
    tails: list[float] = []
    ends: list[int] = []
    previous: dict[int, int | None] = {}
    for i in timed:
        value = words[i].start or 0.0
        at = bisect.bisect_right(tails, value)
        previous[i] = ends[at - 1] if at else None
        tails[at : at + 1] = [value]
        ends[at : at + 1] = [i]
    chain: list[int] = []
    node: int | None = ends[-1] if ends else None
    while node is not None:
        chain.append(node)
        node = previous[node]
    return chain[::-1]


def _with_end(word: SungWord, bound: float, stated: float | None, faults: _Faults) -> SungWord:
    """A word with an end after its start and not after `bound`, where the next begins; without times if there is no room.

    stated: where its line ends, if it is the last.
    """
    start, end = word.start, word.end
    assert start is not None
    if bound - start < SHORTEST:
        faults.add("word that starts with the next, both share the time", word.text, start)
        return SungWord(word.text)
    if end is None or end < start:
        if end is not None:
            faults.add("word that ends before it starts, end taken from the next", word.text, start)
        end = stated if stated is not None and stated > start else start + 1.0
    elif end - start < SHORTEST:
        faults.add("word of no length, lengthened", word.text, start)
        end = start + ZERO_WORD
    elif end > bound + SLACK:
        faults.add("word overlapping the next, cut", word.text, start)
    return SungWord(word.text, start, min(end, bound))


def _fill_gaps(words: list[SungWord], line: LyricLine) -> list[SungWord]:
    """Words without times between timed ones: over the gap there if it is wide enough, else they share a neighbour's time."""
    out = list(words)
    i = 0
    while i < len(out):
        if out[i].start is not None:
            i += 1
            continue
        j = i
        while j < len(out) and out[j].start is None:
            j += 1
        low = out[i - 1].end if i else line.start
        high = out[j].start if j < len(out) else line.end
        first, last = i, j
        if low is None or high is None or high - low < 0.05 * (j - i):
            first, last = (i - 1, j) if i else (i, j + 1)
            low, high = (out[first].start, out[first].end) if i else (out[j].start, out[j].end)
        spans = share(low, high, [w.text for w in out[first:last]])
        out[first:last] = [SungWord(w.text, *span) for w, span in zip(out[first:last], spans, strict=True)]
        i = j
    return out


# -- all lines -------------------------------------------------------------------------------------------------------


def _time_untimed_lines(lines: list[LyricLine], faults: _Faults) -> list[LyricLine]:
    """Where some lines have times, one without gets the gap between its neighbours, or is left out."""
    if not any(line.start is not None for line in lines):
        return lines
    out: list[LyricLine] = []
    for i, line in enumerate(lines):
        if line.start is not None:
            out.append(line)
            continue
        low = out[-1].end if out else None
        high = next((other.start for other in lines[i + 1 :] if other.start is not None), None)
        if low is not None and high is not None and high - low >= SHORTEST_LINE:
            faults.add("line without times, put between its neighbours", line.text)
            out.append(replace(line, start=low, end=high))
        else:
            faults.add("line without times, left out", line.text)
    return out


def _with_line_ends(lines: list[LyricLine], seconds: float | None) -> list[LyricLine]:
    """Lines of which only the start is known end where the next begins, at most LONGEST_LINE later."""
    out = []
    for i, line in enumerate(lines):
        if line.start is not None and (line.end is None or line.end < line.start):
            later = [other.start for other in lines[i + 1 :] if other.start is not None and other.start > line.start]
            bound = min(later, default=math.inf if seconds is None else seconds)
            line = replace(line, end=min(bound, line.start + LONGEST_LINE))
        out.append(line)
    return out


def _order_lines(lines: list[LyricLine], faults: _Faults) -> list[LyricLine]:
    """Timed lines by start; of two that overlap the first is cut, or, where that would cost words, both are joined."""
    if not lines or lines[0].start is None:
        return lines
    ordered = sorted(lines, key=_start)
    if [line.start for line in ordered] != [line.start for line in lines]:
        faults.add("lines not in order of time, sorted", lines[0].text)
    out: list[LyricLine] = []
    group: list[LyricLine] = []
    for line in ordered:
        if _end(line) - _start(line) < SHORTEST:
            faults.add("line of no length, left out", line.text, line.start)
        elif not group or max(map(_end, group)) <= _start(line) + SLACK:
            out += _merge_lines(group)
            group = [line]
        elif all(_start(line) - _last_start(other) >= 2 * SHORTEST for other in group):
            faults.add("line overlapping the next, cut", group[-1].text, group[-1].start)
            out += _merge_lines([_cut_at(other, _start(line)) for other in group])
            group = [line]
        elif all(other.words[-1].timed for other in (line, *group)):
            faults.add("lines sung at the same time, joined word by word", line.text, line.start)
            group.append(line)
        else:
            faults.add("lines at the same time, the second left out", line.text, line.start)
    return out + _merge_lines(group)


def _start(item: LyricLine | SungWord) -> float:
    return -math.inf if item.start is None else item.start


def _end(line: LyricLine) -> float:
    return -math.inf if line.end is None else line.end


def _last_start(line: LyricLine) -> float:
    """Start of its last word, or of the line where that is not known."""
    return _start(line.words[-1]) if line.words[-1].timed else _start(line)


def _cut_at(line: LyricLine, end: float) -> LyricLine:
    words = [w if w.end is None else replace(w, end=min(w.end, end)) for w in line.words]
    return replace(line, end=min(_end(line), end), words=tuple(words))


def _merge_lines(group: list[LyricLine]) -> list[LyricLine]:
    """Lines sung at the same time, merged in the order of their words and cut again at the longest pauses."""
    if len(group) < 2:
        return group
    words = sorted((word for line in group for word in line.words), key=_start)
    return lines_by_pauses(
        _repair_line(line_of(words), math.inf, _Faults("", strict=False)).words, math.inf, LONGEST_LINE
    )


def _rounded(line: LyricLine) -> LyricLine:
    """Times in tenths of a millisecond."""

    def near(time: float | None) -> float | None:
        return None if time is None else round(time, 4)

    words = tuple(SungWord(w.text, near(w.start), near(w.end)) for w in line.words)
    return LyricLine(line.text, near(line.start), near(line.end), words)
