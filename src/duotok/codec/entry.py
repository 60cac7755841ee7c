"""What is known about a tokenizer before it is installed: for `duotok codecs list` and `describe`, and to check what is opened."""

from __future__ import annotations

from dataclasses import dataclass

EACH_TRACK = "each track by itself"
TOGETHER = "both tracks together"


@dataclass(frozen=True)
class Entry:
    """One published tokenizer.

    sample_rate, frame_rate: Hz, the latter exact where possible; codebooks: their number; codebook_size: codes in each (a tuple
    where they differ); streams: how it codes vocals and accompaniment; needs: requirements in a few words; get: the exact lines
    that fetch it; use: the line that uses it; windows: what a code depends on, and how long sound is cut; verified: what was
    run here, and with which weights; read: the public code that the adapter was written from.
    """

    name: str
    what: str
    sample_rate: int
    channels: int
    frame_rate: float
    codebooks: int
    codebook_size: int | tuple[int, ...]
    streams: str
    code_licence: str
    weights_licence: str
    needs: str
    get: tuple[str, ...]
    use: str
    windows: str
    verified: str
    cite: str
    read: str = ""
    encodes: bool = True
    decodes: bool = True

    @property
    def sizes(self) -> str:
        """Codebooks and their sizes in short, e.g. "9 x 1024"."""
        size = self.codebook_size
        each = str(size) if isinstance(size, int) else " + ".join(map(str, size))
        return each if not isinstance(size, int) else f"{self.codebooks} x {each}"
