"""Names of files: bytes, not always text, and not longer than a file system takes."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of a name that common file systems take."""


def text_of(name: str | Path) -> str:
    """A name for people and for files of UTF-8: bytes that are no UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def short_hash(text: str | Path, digits: int = 8) -> str:
    """The first hex digits of the SHA-256 of a name."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:digits]


def temporary(path: Path, ending: str = ".tmp") -> Path:
    """A hidden name beside `path` that nobody else has, short however long the name is."""
    return path.with_name(f".{short_hash(path.name, 16)}.{uuid.uuid4().hex[:8]}{ending}")


def fitted(stem: str, ending: str) -> str:
    """`stem + ending`, with the stem cut and a hash of it behind where the name would be too long."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    mark = f"-{short_hash(stem)}{ending}"
    kept = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(mark))]
    while kept and kept[-1] & 0xC0 == 0x80:  # not in the middle of a character
        kept = kept[:-1]
    if kept and kept[-1] >= 0xC0:
        kept = kept[:-1]
    return os.fsdecode(kept) + mark
