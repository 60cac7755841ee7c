"""Songs cut into pieces of stated seconds: the same moments of a song for every codec, whatever its frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from duotok.errors import ConfigError
from duotok.lm.protocols import Protocol
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity

SHORTEST = 5.0
"""Seconds of the shortest piece; shorter songs and shorter ends of songs are left out."""


class Piece(NamedTuple):
    """Frames `[start, stop)` of song number `song`."""

    song: int
    start: int
    stop: int

    def tokens(self, songs: Sequence[TokenizedSong]) -> dict[str, NDArray[np.int32]]:
        return {name: codes[:, self.start : self.stop] for name, codes in songs[self.song].tokens.items()}


def pieces(
    songs: Sequence[TokenizedSong], codec: CodecIdentity, seconds: float, shortest: float = SHORTEST
) -> list[Piece]:
    """Each song from its beginning in pieces of `seconds`; the last may be shorter, down to `shortest` seconds."""
    result = []
    least = codec.frames(min(shortest, seconds))
    for index, song in enumerate(songs):
        place = 0
        while (start := codec.frames(place * seconds)) + least <= song.frames:
            result.append(Piece(index, start, min(codec.frames((place + 1) * seconds), song.frames)))
            place += 1
    return result


def check_lengths(protocol: Protocol, seconds: float, shortest: float) -> None:
    """Raises ConfigError when no piece, or not the shortest one, would hold more than the protocol's prefix."""
    if protocol.codec.frames(min(shortest, seconds)) < 1:
        raise ConfigError(f"pieces of {min(shortest, seconds):g} s hold no frame of {protocol.codec}; take longer ones")
    if protocol.prefix and protocol.codec.frames(min(shortest, seconds)) <= protocol.prefix:
        raise ConfigError(
            f"a prefix of {protocol.prefix_seconds:g} s leaves nothing of the shortest piece, "
            f"{min(shortest, seconds):g} s; shorten prefix_seconds or leave out more (shortest, seconds)"
        )
