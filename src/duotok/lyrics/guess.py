"""Guess the encoding of a text that does not state it, with a confidence.

charset-normalizer scores the candidates (noise, and likeness to a language). What it cannot distinguish, alphabets do:
Western, Central European, Turkish and Baltic texts differ only in their accented letters, and the multi-byte encodings of
East Asia decode each other's bytes to rare characters.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from charset_normalizer import from_bytes

MULTIBYTE = ("cp932", "euc_jp", "iso2022_jp", "cp949", "big5", "gb18030")
LATIN = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257")
OTHERS = ("cp1251", "koi8_r", "koi8_u", "cp1253", "cp1255", "cp1256")
ALPHABETS = {
    "French": "àâæçéèêëîïôœùûüÿ", "German": "äöüßé", "Spanish": "áéíóúüñ", "Portuguese": "áâãàçéêíóôõúü",
    "Italian": "àèéìíîòóùú", "Dutch": "éëïóöüèáíê", "Swedish, Finnish": "åäöéà", "Danish, Norwegian": "æøåéòôóêè",
    "Icelandic": "áðéíóúýþæö", "Catalan": "àçèéíïòóúü", "English": "éèïçêñöü",
    "Czech": "áčďéěíňóřšťúůýž", "Slovak": "áäčďéíĺľňóôŕšťúýž", "Polish": "ąćęłńóśźż", "Hungarian": "áéíóöőúüű",
    "Croatian, Slovene": "čćđšž", "Romanian": "ăâîșțşţ", "Albanian": "ëç", "Turkish": "çğıöşüâîû",
    "Lithuanian": "ąčęėįšųūž", "Latvian": "āčēģīķļņšūž", "Estonian": "äöõüšž",
}  # fmt: skip
# Some words without accents that occur in nearly every text of a language.
SMALL_WORDS = {
    "French": "le la les et je tu que de un une dans pour", "German": "der die das und ich nicht ist ein mit du",
    "Spanish": "el la que de y en los por un una", "Portuguese": "o que de um uma eu com os para meu",
    "Italian": "il che di la non per un una mi con", "Dutch": "de het een en ik van niet je is",
    "Swedish, Finnish": "jag och det som en att du inte ja ei on se", "Danish, Norwegian": "jeg og det er en ikke du der",
    "Czech": "se na je to jsem jen ale kdy", "Slovak": "sa na je to som ale len", "Polish": "nie to na jest do w i z ja",
    "Hungarian": "a az nem egy is hogy te meg", "Croatian, Slovene": "je i da se na u ne sam",
    "Romanian": "si de la nu un o ca mai pe", "Turkish": "bir ve bu ne ben sen de", "Albanian": "dhe nuk me ne",
    "Lithuanian": "ir tai kad mano tu", "Latvian": "un es tu ir ka", "Estonian": "ja on ei see ma",
    "Icelandic": "og er sem ekki um", "Catalan": "el la que de i no per un", "English": "the and you of to i my",
}  # fmt: skip
VOWELS = {
    "cp1251": "аеёиоуыэюяіїє", "koi8_r": "аеёиоуыэюя", "koi8_u": "аеёиоуыэюяіїє", "cp1253": "αεηιουωάέήίόύώϊϋ",
}  # fmt: skip
# Signs that occur in no word: between letters they show a wrong encoding.
_INSIDE = re.compile(
    r"(?<=[A-Za-z])[\u00a2-\u00a9\u00ac\u00ae-\u00b3\u00b5\u00b6\u00b8\u00b9\u00bc-\u00bf\u2020\u2021\u2030\u20ac]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffe\uffff\ufffd]")
LEAST_MARGIN = 0.06
MOST_MESS = 0.2


class Guess(NamedTuple):
    """confidence: 0 to 1, that the text is right; others: encodings that would give another likely text."""

    text: str
    encoding: str
    confidence: float
    others: tuple[str, ...]

    @property
    def sure(self) -> bool:
        return self.confidence >= 0.5 + LEAST_MARGIN


def guess(data: bytes) -> Guess | None:
    """The likeliest text of `data`; None where no encoding gives one."""
    scores: dict[str, tuple[float, str]] = {}

    def add(text: str, encoding: str, score: float) -> None:
        if text not in scores or score > scores[text][0]:
            scores[text] = (score, encoding)

    for match in from_bytes(data, cp_isolation=[*MULTIBYTE, *OTHERS], threshold=MOST_MESS):
        text = str(match)
        if not _CONTROL.search(text.replace("\x1b", "")):
            add(text, match.encoding, 1 - match.chaos - _implausibility(text, match.encoding) + 0.3 * match.coherence)
    for encoding in LATIN:
        decoded = _latin(data, encoding)
        if decoded is not None:
            add(decoded[0], encoding, decoded[1])
    ranked = sorted(((score, encoding, text) for text, (score, encoding) in scores.items()), reverse=True)
    ranked = [entry for entry in ranked if entry[0] > 1 - MOST_MESS]
    if not ranked:
        return None
    best, *rest = ranked
    margin = best[0] - rest[0][0] if rest else 0.45
    likely = tuple(encoding for score, encoding, _ in rest if best[0] - score < LEAST_MARGIN)
    return Guess(best[2], best[1], round(min(0.99, 0.5 + margin), 2), likely)


def _latin(data: bytes, encoding: str) -> tuple[str, float] | None:
    """Text and score in an encoding of Latin letters: how well one alphabet covers its accented ones."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    accented = [letter.lower() for letter in text if letter.isalpha() and letter > "\x7f"]
    plain = sum(letter.isascii() and letter.isalpha() for letter in text)
    inside = len(_INSIDE.findall(text))
    if not accented:
        return text, 1.0 - 0.5 * bool(inside)
    words = re.findall(r"[a-z]+", text.lower())

    def coverage(language: str) -> float:
        small = SMALL_WORDS[language].split()
        small_share = sum(word in small for word in words) / max(1, len(words))
        return sum(letter in ALPHABETS[language] for letter in accented) / len(accented) + min(0.2, small_share)

    covered = max(map(coverage, ALPHABETS))
    if len(accented) > plain:  # letters of another script, read as accents
        return None
    upper = sum(a.islower() and b.isupper() for a, b in pairwise(text)) / len(text)
    common = 0.05 if encoding == "cp1252" else 0.0  # by far the most frequent of them
    return text, covered - inside / (len(accented) + inside) - 2 * upper + common


def _implausibility(text: str, encoding: str) -> float:
    """A penalty for a text: characters that its language hardly uses, too few vowels."""
    letters = [letter for letter in text if letter.isalpha() and letter > "\x7f"]
    if letters and encoding in VOWELS:
        vowels = sum(letter.lower() in VOWELS[encoding] for letter in letters) / len(letters)
        return 0.3 if vowels < 0.28 else 0.0
    if not letters or encoding not in MULTIBYTE:
        return 0.0

    def share(*ranges: tuple[str, str]) -> float:
        return sum(any(low <= letter <= high for low, high in ranges) for letter in letters) / len(letters)

    kana, halfwidth = share(("\u3040", "\u30ff")), share(("\uff61", "\uff9f"))
    jamo, hangul, han = share(("\u3130", "\u318f")), share(("\uac00", "\ud7a3")), share(("\u3400", "\u9fff"))
    if encoding == "cp949":
        return 0.5 * jamo + 0.5 * han + (0.2 if hangul < 0.5 else 0.0)
    if encoding in ("cp932", "euc_jp", "iso2022_jp"):
        return halfwidth + (0.25 if kana < 0.05 else 0.0) + 0.5 * hangul
    rare = share(("\u3400", "\u4dff"), ("\ue000", "\uf8ff"))
    return (
        0.5 * kana
        + 0.5 * jamo
        + 0.5 * hangul
        + rare
        + (0.15 if encoding == "gb18030" and _lacks_common_han(text) else 0.0)
    )


def _lacks_common_han(text: str) -> bool:
    """Whether the text has none of the characters that occur in every Chinese text."""
    return len(text) > 20 and not any(common in text for common in "的我你是不一了在人有这這来來他们們")
