"""DuoTok: a song in, two time-aligned token streams out (vocals, accompaniment), 48 kHz music back.

from duotok import DuoTok
model = DuoTok.from_pretrained("mini")
tokens = model.encode("song.mp3")
audio = model.decode(tokens)                       # [channels, samples] at 48 kHz
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DualTokens", "DuoTok", "__version__", "load", "save"]

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok
    from duotok.tokens import DualTokens, load, save


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import: import it only when something needs it.
    if name == "DuoTok":
        from duotok.codec.duotok import DuoTok

        return DuoTok
    if name in ("DualTokens", "load", "save"):
        from duotok import tokens

        return getattr(tokens, name)
    raise AttributeError(f"module 'duotok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
