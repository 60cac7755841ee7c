"""What the stems of a song may be when they are not true: with some of the other track in them, or a separator's.

`leak L`: each track plus the other one, L dB softer than it is in the song. Separators: whatever `separation` opens. `direct`: no
stems at all, the mix goes in as the accompaniment, beside silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.errors import ConfigError, DuoTokError
from duotok.separation import SEPARATORS, Separator, separator_by_name
from duotok.separation.choose import separator_stamp
from duotok.tracks import TRACKS

VOCALS, ACCOMPANIMENT = TRACKS
TRUE, DIRECT, CHANCE = "true", "direct", "chance"
LEVELS = (-40.0, -30.0, -20.0, -10.0)


def leak_name(level: float) -> str:
    return f"leak{level:g}"


def leaked(stems: dict[str, Tensor], level: float) -> dict[str, Tensor]:
    """Each track with the other one added, `level` dB (negative) under its own: sounds `[channels, samples]`."""
    gain = 10 ** (level / 20)
    return {
        VOCALS: stems[VOCALS] + gain * stems[ACCOMPANIMENT],
        ACCOMPANIMENT: stems[ACCOMPANIMENT] + gain * stems[VOCALS],
    }


@dataclass(frozen=True)
class OpenSeparator:
    """text: NAME or NAME=WEIGHTS, which opens it again; name: in tables; stamp: identifies its weights."""

    text: str
    name: str
    stamp: str
    separator: Separator


def open_separators(texts: Sequence[str], device: str = "cpu") -> tuple[list[OpenSeparator], dict[str, str]]:
    """Those of NAME or NAME=WEIGHTS that open, and name -> why not for the others. None given: all that DuoTok knows."""
    found, gaps = list[OpenSeparator](), dict[str, str]()
    names = [text.partition("=")[0] for text in texts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"separator '{twice[0]}' is named twice, and a table has one of each name; run it again in another store"
        )
    for text in texts or SEPARATORS:
        name, _, weights = text.partition("=")
        try:
            separator = separator_by_name(name, weights=weights or None, device=device)
            found.append(OpenSeparator(text, name, separator_stamp(name, weights=weights or None), separator))
        except DuoTokError as error:
            if texts and name not in SEPARATORS:
                raise
            gaps[name] = str(error)
    return found, gaps


def variants(
    stems: dict[str, Tensor], levels: Sequence[float], separators: Sequence[OpenSeparator]
) -> Iterator[tuple[str, dict[str, Tensor] | DuoTokError]]:
    """(condition, its stems or why there are none), the true ones first; `stems`: `[2, samples]` at 48 kHz."""
    yield TRUE, stems
    for level in levels:
        yield leak_name(level), leaked(stems, level)
    mix = stems[VOCALS] + stems[ACCOMPANIMENT]
    for separator in separators:
        try:
            made = separator.separator.separate(mix)
            yield separator.name, {track: made[track] for track in TRACKS}
        except DuoTokError as error:
            yield separator.name, error
    yield DIRECT, {VOCALS: torch.zeros_like(mix), ACCOMPANIMENT: mix}
