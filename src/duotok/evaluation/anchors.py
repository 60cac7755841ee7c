"""Classical codecs that listeners know, as yardsticks of sound: they have bit streams, and no tokens in our sense.

A packet of Opus is as long as its sound needs and codes whatever its entropy coder left, a frame of Codec2 is a handful of
parameters of a voice; neither is a row of codes of fixed codebooks that a language model could learn. So they stand among the
measurements, not behind the codec contract.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """install: the line that gets what it needs; use: the function; programs: what it runs (none: a library that is there)."""

    name: str
    what: str
    install: str
    use: str
    programs: tuple[str, ...] = ()

    def here(self) -> str:
        """ "yes", or what is missing."""
        missing = [program for program in self.programs if shutil.which(program) is None]
        return f"no {' and '.join(missing)}: {self.install}" if missing else "yes"


ANCHORS: dict[str, Anchor] = {
    anchor.name: anchor
    for anchor in (
        Anchor("opus", "Opus at 48 kHz, from 6 kbit/s", "pip install duotok", "duotok.evaluation.opus.opus(audio, 6000)"),
        Anchor(
            "codec2", "Codec2 at 8 kHz, 0.7 to 3.2 kbit/s, made for voices", "apt install codec2",
            "duotok.evaluation.codec2.codec2(audio, '3200')", ("c2enc", "c2dec"),
        ),
    )
}  # fmt: skip
