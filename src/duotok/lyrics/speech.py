"""Readers of the JSON that speech recognizers write: WhisperX and FunASR."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from duotok.lyrics.repair import Draft
from duotok.lyrics.types import LyricLine, LyricsError, SungWord
from duotok.lyrics.words import language_code, line_of, lines_by_pauses, split_words

_TAG = re.compile(r"<\|([^|]*)\|>")
# FunASR's own sentences end at these as well.
_SENTENCE = re.compile(r"(?<=[，。？！；,?!;])\s*|(?<=\.)\s+")


def number(value: Any) -> float | None:
    """A JSON number as float; None for anything else (NaN stays: `repair` drops it)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e9 or value != value else None


def whisperx(values: dict[str, Any], name: str) -> Draft:
    """Segments are lines; a word without times (a number, say) has none. Raises LyricsError for another shape."""
    lines: list[LyricLine] = []
    try:
        for segment in values.get("segments") or ():
            words = [_timed(word) for word in segment.get("words") or ()]
            text = str(segment.get("text") or "")
            lines.append(LyricLine(text, number(segment.get("start")), number(segment.get("end")), tuple(words)))
        if not lines:
            lines = lines_by_pauses([_timed(word) for word in values.get("word_segments") or ()])
    except (TypeError, AttributeError, KeyError) as error:
        raise LyricsError(f"{name}: not JSON as WhisperX writes it ({error!r}); transcribe again") from None
    return Draft(lines, language_code(str(values.get("language") or "")), "whisperx")


def _timed(word: dict[str, Any]) -> SungWord:
    return SungWord(str(word["word"]), number(word.get("start")), number(word.get("end")))


def funasr(values: Any, name: str) -> Draft:
    """A result of `AutoModel.generate`, or the list of them: text, timestamp (milliseconds a token), sentence_info.

    Raises LyricsError for another shape.
    """
    lines: list[LyricLine] = []
    language, unmatched = "", 0
    try:
        for result in values if isinstance(values, list) else [values]:
            tags = _TAG.findall(str(result.get("text", "")))
            language = language or next((language_code(tag) for tag in tags if re.fullmatch("[a-z]{2,3}", tag)), "")
            sentences = result.get("sentence_info") or ()
            if not sentences:
                sentence_lines, sentence_unmatched = _sentences(result)
                lines += sentence_lines
                unmatched += sentence_unmatched
            for sentence in sentences:
                text = _plain(sentence.get("text") or sentence.get("sentence") or "")
                words = _tokens(text, sentence.get("timestamp") or (), sentence.get("raw_text"))
                unmatched += words is None
                start, end = _milliseconds(sentence.get("start")), _milliseconds(sentence.get("end"))
                lines.append(LyricLine(text, start, end, tuple(words or ())))
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise LyricsError(f"{name}: not JSON as FunASR writes it ({error!r}); transcribe again") from None
    notes = (
        [f"{unmatched} x sentence whose tokens and times differ in number: its words have no times"]
        if unmatched
        else []
    )
    return Draft(lines, language, "funasr", notes)


def _plain(text: Any) -> str:
    # Without punctuation a sentence comes as a list of tokens.
    return _TAG.sub("", " ".join(text) if isinstance(text, list) else str(text)).strip()


def _milliseconds(value: Any) -> float | None:
    time = number(value)
    return None if time is None else time / 1000


def _tokens(text: str, stamps: Sequence[Sequence[float]], raw: str | None = None) -> list[SungWord] | None:
    """Tokens with their times; None when their numbers differ."""
    for tokens in (split_words(text), (raw or "").split(), text.split()):
        if tokens and len(tokens) == len(stamps):
            return [SungWord(t, _milliseconds(s[0]), _milliseconds(s[1])) for t, s in zip(tokens, stamps, strict=True)]
    return None


def _sentences(result: dict[str, Any]) -> tuple[list[LyricLine], int]:
    """Lines of a result without sentence_info: at punctuation, else at pauses; and how many have no word times."""
    text, stamps = _plain(result.get("text") or ""), result.get("timestamp") or ()
    if not text:
        return [], 0
    tokens_given = result.get("words")
    if isinstance(tokens_given, list) and len(tokens_given) == len(stamps):  # SenseVoice with output_timestamp
        tokens = [
            SungWord(str(t).strip("\u2581 "), _milliseconds(s[0]), _milliseconds(s[1]))
            for t, s in zip(tokens_given, stamps, strict=True)
        ]
        return lines_by_pauses([token for token in tokens if token.text]), 0
    words = _tokens(text, stamps, result.get("raw_text"))
    parts = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    if words is None:
        return [LyricLine(part) for part in parts], int(bool(stamps))
    counts = [len(split_words(part)) for part in parts]
    if len(parts) == 1 or sum(counts) != len(words):
        return lines_by_pauses(words), 0
    ends = list(itertools.accumulate(counts))
    spans = zip(parts, counts, ends, strict=True)
    return [line_of(words[end - count : end], part) for part, count, end in spans], 0
