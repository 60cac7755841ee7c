"""One call for every lyrics file: `read_lyrics(path)`. The format is detected from the content."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from duotok.lyrics import lrc, speech, tables, ultrastar
from duotok.lyrics.encodings import decode
from duotok.lyrics.repair import Draft, repair
from duotok.lyrics.types import LyricLine, Lyrics, LyricsError
from duotok.lyrics.words import language_code

Format = Literal[
    "lrc", "ultrastar", "whisperx", "funasr", "jamendo-words", "jamendo-lines", "song", "words", "duotok", "text"
]
FORMATS: tuple[Format, ...] = (
    "lrc", "ultrastar", "whisperx", "funasr", "jamendo-words", "jamendo-lines", "song", "words", "duotok", "text",
)  # fmt: skip
"""song: song.json of a generated song; words: a JSON list of words; duotok: Lyrics.as_json; text: lines without times."""
JSON_FORMATS = ("whisperx", "funasr", "song", "words", "duotok")
log = logging.getLogger(__name__)

LARGEST_FILE = 32_000_000
_SECTION = re.compile(r"\s*[\[(][^\])]*[\])]\s*:?\s*$")


def read_lyrics(
    path: str | Path,
    format: Format | None = None,
    *,
    seconds: float | None = None,
    start: float = 0.0,
    strict: bool = False,
    encoding: str = "",
) -> Lyrics:
    """Lyrics of a file, with times in seconds of the recording where the file has any.

    format, encoding: detected from the content unless given (`duotok.lyrics.encodings`); a guessed encoding is stated in
    `notes`. seconds: length of the recording; words after it are left out. start: second of the lyrics' time at which the
    recording begins (it is part of a longer file). Faults (overlaps, zero lengths, words without times ...) are repaired and
    listed in `notes`; strict: the first one raises. Raises LyricsError, in one line, for a file that is missing, is no text,
    holds no lyrics or is not of the format.
    """
    name, file = str(path), Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise LyricsError(f"{name}: {file.stat().st_size / 1e6:.0f} MB is no lyrics file; check the name")
        data = file.read_bytes()
    except OSError as error:
        raise LyricsError(f"{name}: cannot be read ({error.strerror}); check the name") from None
    text, _, guessed = decode(data, name, encoding)
    if not text.strip():
        raise LyricsError(f"{name}: empty; put lyrics there, or leave the recording without")
    values = _json(text, file, format, name)
    kind = format or _detect_format(text, values, name)
    if kind not in FORMATS:
        raise LyricsError(f"{name}: format '{kind}' is not known; choose {', '.join(FORMATS)}")
    lyrics = repair(_draft(kind, text, values, file, name), name, seconds, start, strict)
    if not guessed:
        return lyrics
    log.warning("%s: %s; save it as UTF-8, or give its encoding", name, guessed)
    return replace(lyrics, notes=(guessed, *lyrics.notes))


def _json(text: str, path: Path, format: Format | None, name: str) -> Any:
    if format in JSON_FORMATS or path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LyricsError(f"{name}: not valid JSON ({error}); write the file again") from None
    if text.lstrip()[:1] in "{[":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    return None


def _detect_format(text: str, values: Any, name: str) -> Format:
    if values is not None:
        return _detect_json_format(values, name)
    header = text.lstrip().splitlines()[0].strip().lower()
    if header.startswith(tables.WORDS_HEADER):
        return "jamendo-words"
    if header.startswith(tables.LINES_HEADER):
        return "jamendo-lines"
    if ultrastar.NOTES.search(text) and re.search(r"^\s*#BPM\s*:", text, re.IGNORECASE | re.MULTILINE):
        return "ultrastar"
    if lrc.TIMED.search(text):
        return "lrc"
    if re.search(r"^\s*[\d:.,]+ --> [\d:.,]+", text, re.MULTILINE):
        raise LyricsError(f"{name}: subtitles (srt, vtt) are not read; convert them to LRC or JSON of WhisperX")
    return "text"


def _detect_json_format(values: Any, name: str) -> Format:
    first = values[0] if isinstance(values, list) and values else values
    if values == []:
        return "funasr"  # FunASR's result for "no speech"
    if isinstance(values, dict):
        if "lines" in values:
            return "duotok"
        if str(values.get("format", "")).startswith("duotok-song"):
            return "song"
        if "segments" in values or "word_segments" in values:
            return "whisperx"
        if isinstance(values.get("words"), list) and "timestamp" not in values:
            return "words"
    if isinstance(first, dict):
        if {"start", "end"} <= first.keys() and ("word" in first or "text" in first) and isinstance(values, list):
            return "words"
        if "timestamp" in first or "sentence_info" in first or {"key", "text"} <= first.keys():
            return "funasr"
    raise LyricsError(f"{name}: JSON of no known kind; {', '.join(JSON_FORMATS)} are read")


def _draft(kind: Format, text: str, values: Any, path: Path, name: str) -> Draft:
    if kind == "lrc":
        return lrc.parse(text)
    if kind == "ultrastar":
        return ultrastar.parse(text, name)
    if kind == "jamendo-words":
        return tables.jamendo_words(text, path)
    if kind == "jamendo-lines":
        return tables.jamendo_lines(text, path)
    if kind == "text":
        return _plain(text)
    if kind == "funasr":
        return speech.funasr(values, name)
    if kind == "words" and isinstance(values, list):
        return tables.word_list(values, "", "words", name)
    if not isinstance(values, dict):
        raise LyricsError(f"{name}: not JSON of the kind '{kind}'; it must be an object")
    if kind == "whisperx":
        return speech.whisperx(values, name)
    if kind == "duotok":
        return tables.duotok_json(values, name)
    words = values.get("words")
    if not isinstance(words, list):
        raise LyricsError(f"{name}: no list 'words' in it")
    header = values.get("header")
    tag = values.get("language") or (header.get("LANGUAGE") if isinstance(header, dict) else "") or ""
    return tables.word_list(words, language_code(str(tag)), kind, name)


def _plain(text: str) -> Draft:
    """Each row is a line; section marks such as `[Chorus]` are left out."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    sung = [row for row in rows if not _SECTION.match(row)]
    notes = [f"{len(rows) - len(sung)} x mark of a section, left out"] if len(sung) < len(rows) else []
    return Draft([LyricLine(row) for row in sung], "", "text", notes)
