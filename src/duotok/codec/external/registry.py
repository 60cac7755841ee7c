"""The tokenizers that run in environments of their own, by name."""

from __future__ import annotations

from duotok.codec.external import (
    codicodec,
    heartcodec,
    levo,
    moss,
    mucodec,
    open_qwen_music,
    semanticodec,
    wavtokenizer,
    yue,
)
from duotok.codec.external.known import Known

EXTERNAL: dict[str, Known] = {
    known.entry.name: known
    for known in (
        wavtokenizer.KNOWN, semanticodec.KNOWN, yue.KNOWN, mucodec.KNOWN, levo.KNOWN, moss.KNOWN, moss.NANO, codicodec.KNOWN,
        open_qwen_music.KNOWN, heartcodec.KNOWN,
    )
}  # fmt: skip
