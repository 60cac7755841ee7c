"""Lyrics on the token frames: timed lines as stretches that should not be cut, and the words of a segment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from duotok.clock import FRAME_RATE
from duotok.lyrics.types import LyricLine, Lyrics

TOLERANCE = 12  # frames by which a time may exceed the recording, because of rounding and the padding of codecs
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})


@dataclass(frozen=True)
class PlacedWord:
    """A word with times in seconds of the recording, and the frames they fall on (first, frame after the last)."""

    text: str
    start: float
    end: float
    first: int
    stop: int


@dataclass(frozen=True)
class Sentence:
    """A timed line and its timed words on the frames. A line ends where its last word does, if that is later."""

    text: str
    first: int
    stop: int
    words: tuple[PlacedWord, ...]


def frame(seconds: float) -> int:
    """The boundary nearest to a time. A line that ends where the next begins shares its boundary."""
    return math.floor(seconds * FRAME_RATE + 0.5)


def _place(seconds: float, frames: int) -> int:
    at = frame(seconds)
    return min(max(at, 0), frames) if -TOLERANCE <= at <= frames + TOLERANCE else at


def _words(line: LyricLine, frames: int) -> tuple[PlacedWord, ...]:
    words = []
    for word in line.words:
        if word.start is not None and word.end is not None and math.isfinite(word.start + word.end):
            start, end = word.start, max(word.start, word.end)
            words.append(PlacedWord(word.text, start, end, _place(start, frames), _place(end, frames)))
    return tuple(words)


def _lasting(word: PlacedWord, stop: int) -> PlacedWord:
    """The word, extended to at least one frame so that it lies in one segment, within a line that ends at `stop`."""
    if word.first < word.stop:
        return word
    first = min(word.first, stop - 1)
    return dataclasses.replace(word, first=first, stop=first + 1)


def sentences_of(lyrics: Lyrics | None, frames: int) -> tuple[list[Sentence], list[str]]:
    """The lines with times within a recording of `frames`, in order; and notes on the other lines, but for lyrics without any times."""
    sentences: list[Sentence] = []
    untimed = outside = 0
    for line in lyrics.lines if lyrics is not None else ():
        words = _words(line, frames)
        starts = [w.start for w in words] + [t for t in (line.start,) if t is not None]
        ends = [w.end for w in words] + [t for t in (line.end,) if t is not None]
        if not starts or not ends or not math.isfinite(sum(starts) + sum(ends)) or not line.text.strip():
            untimed += 1
            continue
        first, stop = _place(min(starts), frames), _place(max(ends), frames)
        if 0 <= first < stop <= frames:
            sentences.append(Sentence(line.text.strip(), first, stop, tuple(_lasting(word, stop) for word in words)))
        else:
            outside += 1
    notes = [f"{untimed} lines without text or times"] if untimed and (sentences or outside) else []
    if outside:
        notes.append(f"{outside} lines that do not lie within the recording")
    return sorted(sentences, key=lambda sentence: (sentence.first, sentence.stop)), notes


def text_between(
    sentences: Sequence[Sentence], low: int, high: int, language: str
) -> tuple[str, tuple[tuple[str, float, float], ...]]:
    """The text of a segment of the frames low..high, a line a row, and its words.

    A line within the segment gives its own text, a line that is cut gives its complete words. Words: (text, start, end) in
    seconds from the segment's start, in the order of time.
    """
    lines: list[str] = []
    words: list[PlacedWord] = []
    for sentence in sentences:
        if sentence.stop <= low or sentence.first >= high:
            continue
        inside = [word for word in sentence.words if low <= word.first and word.stop <= high]
        if low <= sentence.first and sentence.stop <= high:
            lines.append(sentence.text)
        elif inside:
            lines.append(("" if language in UNSPACED else " ").join(word.text for word in inside))
        words += inside
    offset, length = low / FRAME_RATE, (high - low) / FRAME_RATE

    def within(seconds: float) -> float:
        return round(min(max(seconds - offset, 0.0), length), 4)

    placed = sorted(words, key=lambda word: (word.start, word.end))
    return "\n".join(lines), tuple((word.text, within(word.start), within(word.end)) for word in placed)
