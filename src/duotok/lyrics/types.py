"""Lyrics with times: the result of all readers, transcribers and the aligner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from duotok.errors import DuoTokError


class LyricsError(DuoTokError):
    """Lyrics that cannot be read, or whose times make no sense."""


@dataclass(frozen=True)
class SungWord:
    """A word (or a Chinese character); times in seconds of the recording, None where they are not known."""

    text: str
    start: float | None = None
    end: float | None = None

    @property
    def timed(self) -> bool:
        return self.start is not None and self.end is not None


@dataclass(frozen=True)
class LyricLine:
    """A sentence or a line of a song: where segments may be cut."""

    text: str
    start: float | None = None
    end: float | None = None
    words: tuple[SungWord, ...] = ()

    @property
    def timed(self) -> bool:
        return self.start is not None and self.end is not None


@dataclass(frozen=True)
class Lyrics:
    """language: ISO 639-1 ("en", "zh") or None; source: "ultrastar", "lrc", "whisperx", "funasr", "text", "aligned"..."""

    lines: tuple[LyricLine, ...]
    language: str | None = None
    source: str = "text"
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What had to be repaired (overlaps cut, zero-length words dropped ...), for the ledger."""

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    @property
    def words(self) -> tuple[SungWord, ...]:
        return tuple(word for line in self.lines for word in line.words)

    @property
    def timed(self) -> bool:
        """Whether every line has times."""
        return bool(self.lines) and all(line.timed for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "language": self.language,
            "source": self.source,
            "lines": [
                {
                    "text": line.text, "start": line.start, "end": line.end,
                    "words": [{"text": w.text, "start": w.start, "end": w.end} for w in line.words],
                }
                for line in self.lines
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Lyrics:
        """Raises LyricsError when a key is missing."""
        try:
            lines = tuple(
                LyricLine(
                    str(line["text"]), line["start"], line["end"],
                    tuple(SungWord(str(w["text"]), w["start"], w["end"]) for w in line["words"]),
                )
                for line in values["lines"]
            )  # fmt: skip
            return cls(lines, values.get("language"), str(values.get("source", "text")))
        except (KeyError, TypeError) as error:
            raise LyricsError(f"not lyrics as duotok writes them ({error!r})") from None
