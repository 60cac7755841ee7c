"""Words of a text, of timed pieces, and back; Chinese and Japanese characters are words one by one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from duotok.lyrics.types import LyricLine, SungWord

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3041-\u30ff"
CJK = _HAN + _KANA
"""Inside of a regular expression's brackets."""
_CJK = re.compile(f"[{CJK}]")
_FULLWIDTH = re.compile("[\u3000-\u303f\uff00-\uffef]")
_TOKENS = re.compile(f"[{CJK}]|[^\\s{CJK}]+")

LANGUAGES = {
    "english": "en", "englisch": "en", "german": "de", "deutsch": "de", "french": "fr", "français": "fr", "spanish": "es",
    "español": "es", "italian": "it", "italiano": "it", "portuguese": "pt", "dutch": "nl", "polish": "pl", "swedish": "sv",
    "finnish": "fi", "danish": "da", "norwegian": "no", "russian": "ru", "japanese": "ja", "korean": "ko", "chinese": "zh",
    "mandarin": "zh", "latin": "la", "swahili": "sw", "turkish": "tr", "greek": "el", "czech": "cs", "hungarian": "hu",
    "romanian": "ro", "ukrainian": "uk", "hebrew": "he", "arabic": "ar", "hindi": "hi", "catalan": "ca", "croatian": "hr",
}  # fmt: skip
"""Names of languages as files write them, to ISO 639-1."""

Piece = tuple[str, float | None, float | None]


def is_cjk(character: str) -> bool:
    """Whether a character is a Chinese character or kana: a word of its own."""
    return bool(_CJK.match(character))


def language_code(tag: str) -> str:
    """ISO 639-1 of "English", "en", "en-US", "zh_CN"; "" for what is not known."""
    plain = tag.strip().lower()
    if plain in LANGUAGES:
        return LANGUAGES[plain]
    code = re.split(r"[-_,/ ]", plain)[0]
    if code in LANGUAGES:
        return LANGUAGES[code]
    return {"cmn": "zh", "yue": "zh"}.get(code, code if re.fullmatch("[a-z]{2}", code) else "")


def guess_language(text: str) -> str:
    """By script alone: kana is Japanese, Hangul Korean, other Chinese characters Chinese; "" for everything else.

    At least a third of the letters must be of the script, so that a foreign name does not decide.
    """
    letters = [c for c in text if c.isalpha()]
    kana = sum(bool(re.match(f"[{_KANA}]", c)) for c in letters)
    han = sum(map(is_cjk, letters)) - kana
    hangul = sum("\uac00" <= c <= "\ud7a3" for c in letters)
    if 3 * hangul > len(letters):
        return "ko"
    if 3 * (han + kana) > len(letters):
        return "ja" if kana * 10 > han else "zh"
    return ""


def _has_letters(text: str) -> bool:
    return any(c.isalnum() for c in text)


def split_words(text: str) -> list[str]:
    """Words at spaces, Chinese characters one by one; punctuation stays with the word before it."""
    words: list[str] = []
    for token in _TOKENS.findall(text):
        if words and (not _has_letters(token) or not _has_letters(words[-1])):
            words[-1] += token
        else:
            # "，我" comes as one token only when what follows is Latin: the mark belongs to the word before.
            marks = re.match(r"[\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+", token)
            if words and marks and marks.end() < len(token):
                words[-1] += marks[0]
                token = token[marks.end() :]
            words.append(token)
    return words


def join_words(words: Iterable[str]) -> str:
    """The inverse of `split_words` up to white space: no space between Chinese characters."""
    text = ""
    for word in words:
        tight = text and word and (is_cjk(text[-1]) or _FULLWIDTH.match(text[-1])) and is_cjk(word[0])
        text += word if not text or tight else f" {word}"
    return text


def share(start: float | None, end: float | None, texts: Sequence[str]) -> list[tuple[float | None, float | None]]:
    """A stretch of time divided among words by their letters."""
    if len(texts) == 1:
        return [(start, end)]
    if start is None or end is None:
        return [(None, None)] * len(texts)
    letters = [0, *itertools.accumulate(max(1, len(text)) for text in texts)]
    times = [start + (end - start) * at / letters[-1] for at in letters]
    return list(itertools.pairwise(times))


def words_of_pieces(pieces: Iterable[Piece]) -> list[SungWord]:
    """Words from syllables or other timed pieces (text, start, end); a space before, in or after a piece separates words.

    A piece of several words is divided by letters; one without text prolongs the word before it.
    """
    words: list[SungWord] = []
    in_word = False
    for text, start, end in pieces:
        if not text:
            if words and end is not None:
                words[-1] = SungWord(words[-1].text, words[-1].start, end)
            continue
        if text[0].isspace():
            in_word = False
        parts = split_words(text)
        for part, (first, last) in zip(parts, share(start, end, parts), strict=True):
            previous = words[-1] if words else None
            if previous and in_word and not is_cjk(previous.text[-1]) and not is_cjk(part[0]):
                words[-1] = SungWord(previous.text + part, previous.start, last)
            elif previous and not _has_letters(part):
                words[-1] = SungWord(previous.text + part, previous.start, previous.end if last is None else last)
            else:
                words.append(SungWord(part, first, last))
            in_word = False
        in_word = bool(parts) and not text[-1].isspace()
    return words


def lines_by_pauses(words: Sequence[SungWord], pause: float = 0.5, longest: float = 12.0) -> list[LyricLine]:
    """Lines out of timed words: cut at pauses of `pause` seconds; one longer than `longest` is cut at its longest pauses."""
    lines: list[list[SungWord]] = []
    for word in words:
        last = lines[-1][-1].end if lines else None
        if last is None or word.start is None or word.start - last >= pause:
            lines.append([])
        lines[-1].append(word)
    return [line_of(part) for line in lines for part in _cut(line, longest)]


def _cut(words: list[SungWord], longest: float) -> list[list[SungWord]]:
    first, last = words[0].start, words[-1].end
    if len(words) < 2 or first is None or last is None or last - first <= longest:
        return [words]
    middle = (len(words) - 1) / 2

    def gap(index: int) -> tuple[float, float]:
        start, end = words[index].start, words[index - 1].end
        pause = start - end if start is not None and end is not None else 0.0
        return round(pause, 2), -abs(index - 0.5 - middle)

    best_cut = max(range(1, len(words)), key=gap)
    return _cut(words[:best_cut], longest) + _cut(words[best_cut:], longest)


def line_of(words: Sequence[SungWord], text: str = "") -> LyricLine:
    """A line of words with the times of its first and last word."""
    return LyricLine(text or join_words(w.text for w in words), words[0].start, words[-1].end, tuple(words))
