"""jamendolyrics' tables of words and lines, and JSON lists of words (DuoTok's own, and those beside UltraStar songs)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from duotok.lyrics.encodings import decode
from duotok.lyrics.repair import Draft
from duotok.lyrics.speech import number
from duotok.lyrics.types import LyricLine, Lyrics, LyricsError, SungWord
from duotok.lyrics.words import language_code, line_of, lines_by_pauses

WORDS_HEADER = "word_start,word_end,line_end"
LINES_HEADER = "start_time,end_time,lyrics_line"


def _rows(text: str, columns: str, path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise LyricsError(f"{path}: no table ({error}); get the file again") from None
    for number_, row in enumerate(rows, 2):
        if any(row.get(column) is None for column in columns.split(",")):
            raise LyricsError(f"{path}: line {number_} has not the columns {columns}; get the file again")
    return rows


def _time(text: str, path: Path) -> float | None:
    try:
        return None if text.strip().lower() in ("", "nan") else float(text)
    except ValueError:
        raise LyricsError(f"{path}: '{text}' is no time; get the file again") from None


def jamendo_words(text: str, path: Path) -> Draft:
    """annotations/words/SONG.csv with lyrics/SONG.words.txt beside: a line ends where `line_end` is a number.

    Raises LyricsError when the words are missing or are not as many as their times.
    """
    rows = _rows(text, WORDS_HEADER, path)
    words_path = path.parents[1].parent / "lyrics" / f"{path.stem}.words.txt" if len(path.parents) > 2 else path
    for place in (words_path, path.with_name(f"{path.stem}.words.txt")):
        if place.is_file():
            break
    else:
        raise LyricsError(f"{path}: times without words; {words_path} is missing")
    words = [line for line in decode(place.read_bytes(), str(place)).text.splitlines() if line.strip()]
    if len(words) != len(rows):
        raise LyricsError(f"{path}: {len(rows)} times for the {len(words)} words of {place}; get both again")
    lines: list[LyricLine] = []
    line_words: list[SungWord] = []
    for word, row in zip(words, rows, strict=True):
        line_words.append(SungWord(word.strip(), _time(row["word_start"], path), _time(row["word_end"], path)))
        if _time(row["line_end"], path) is not None:
            lines.append(line_of(line_words))
            line_words = []
    if line_words:
        lines.append(line_of(line_words))
    return Draft(lines, _jamendo_language(path), "jamendolyrics")


def jamendo_lines(text: str, path: Path) -> Draft:
    """annotations/lines/SONG.csv: lines with times, words without."""
    rows = _rows(text, LINES_HEADER, path)
    lines = [LyricLine(r["lyrics_line"], _time(r["start_time"], path), _time(r["end_time"], path)) for r in rows]
    return Draft(lines, _jamendo_language(path), "jamendolyrics")


def _jamendo_language(path: Path) -> str:
    """From the dataset's own table, two folders up."""
    table = path.parents[2] / "JamendoLyrics.csv" if len(path.parents) > 2 else path
    if not table.is_file() or table == path:
        return ""
    text = decode(table.read_bytes(), str(table)).text
    for row in csv.DictReader(io.StringIO(text)):
        if Path(row.get("Filepath") or "").stem == path.stem:
            return language_code(row.get("Language") or "")
    return ""


def word_list(words: list[Any], language: str, source: str, path: str) -> Draft:
    """A list of {"word" or "text", "start", "end"}, lines by their "line" numbers if they have some, else by pauses."""
    try:
        sung_words = [
            SungWord(str(w["word"] if "word" in w else w["text"]), number(w["start"]), number(w["end"])) for w in words
        ]
        marks = [w.get("line") for w in words]
        groups: dict[Any, list[SungWord]] = {mark: [] for mark in marks}
    except (KeyError, TypeError, AttributeError) as error:
        raise LyricsError(f"{path}: not a list of words with times ({error!r}); write the file again") from None
    if None in marks or not sung_words:
        return Draft(lines_by_pauses(sung_words), language, source)
    for word, mark in zip(sung_words, marks, strict=True):
        groups[mark].append(word)
    return Draft([line_of(group) for group in groups.values()], language, source)


def duotok_json(values: dict[str, Any], path: str) -> Draft:
    """JSON as `Lyrics.as_json` writes it."""
    try:
        lyrics = Lyrics.from_json(values)
    except LyricsError as error:
        raise LyricsError(f"{path}: {error}") from None
    lines = [
        LyricLine(
            x.text,
            number(x.start),
            number(x.end),
            tuple(SungWord(w.text, number(w.start), number(w.end)) for w in x.words),
        )
        for x in lyrics.lines
    ]
    return Draft(lines, str(lyrics.language or ""), lyrics.source)
