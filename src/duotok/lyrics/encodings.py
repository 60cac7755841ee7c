"""Bytes of a lyrics file to text: which encodings are tried, and in which order."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from duotok.lyrics.guess import guess
from duotok.lyrics.types import LyricsError

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# UltraStar has names of its own for encodings.
NAMES = {"utf8": "utf-8", "auto": "", "local": "", "cp1252": "cp1252", "cp1250": "cp1250"}
_DECLARED = re.compile(rb"^#ENCODING:\s*([\w-]+)", re.IGNORECASE | re.MULTILINE)
# Of control characters only tab, line feeds, form feed and carriage return belong in a text.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]")


class Decoded(NamedTuple):
    """`note`: a remark on a guessed encoding, "" where there was no doubt."""

    text: str
    encoding: str
    note: str = ""


def decode(data: bytes, name: str, encoding: str = "") -> Decoded:
    """The text of a file. encoding: its encoding, where that is known. Otherwise, in this order:

    1. a byte order mark (UTF-8, UTF-16); 2. the file's own `#ENCODING:`; 3. UTF-8, and UTF-16 without its mark; 4. a guess
    (`duotok.lyrics.guess`), reported together with its confidence.

    Raises LyricsError, beginning with `name`, for an unknown encoding, for bytes that are no text in it, and where a guess
    would be unsure.
    """
    if encoding:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise LyricsError(
                f"{name}: no encoding '{encoding}'; try utf-8, cp1252, cp1251, shift_jis, gb18030"
            ) from None
        return Decoded(_checked(data, encoding, name, f"is no {encoding}"), encoding)
    for bom, candidate in BOMS:
        if data.startswith(bom):
            return Decoded(
                _checked(data, candidate, name, f"its byte order mark says {candidate}, its bytes do not"), candidate
            )
    declared = _DECLARED.search(data[:4096])
    if declared:
        stated = declared[1].decode("ascii").lower()
        stated = NAMES.get(stated, stated)
        text = _try(data, stated) if stated else None
        if text is not None:
            return Decoded(text, stated)
    for candidate in ("utf-8", *_utf16(data)):
        text = _try(data, candidate)
        if text is not None and ("\x1b" not in text):
            return Decoded(text, candidate)
    guessed = guess(data)
    if guessed is None:
        raise LyricsError(
            f"{name}: no text in UTF-8 or any other encoding that is known here; save it as UTF-8, or give --encoding"
        )
    if not guessed.sure:
        others = ", ".join((guessed.encoding, *guessed.others))
        raise LyricsError(
            f"{name}: its encoding cannot be told ({others} are likely); save it as UTF-8, or give --encoding"
        )
    return Decoded(guessed.text, guessed.encoding, f"read as {guessed.encoding}, {guessed.confidence:.0%} sure")


def _utf16(data: bytes) -> tuple[str, ...]:
    """UTF-16 without a mark, where half of the bytes of a Western text are zero."""
    if data[1::2].count(0) > len(data) // 4:
        return ("utf-16-le",)
    return ("utf-16-be",) if data[::2].count(0) > len(data) // 4 else ()


def _try(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None
    return None if _CONTROL.search(text) else text


def _checked(data: bytes, encoding: str, name: str, why: str) -> str:
    text = _try(data, encoding)
    if text is None:
        raise LyricsError(f"{name}: {why}; save it as UTF-8")
    return text.lstrip("\ufeff")
