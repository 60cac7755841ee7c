"""Songs of a store encoded once more, alone and in one go, and compared."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from duotok.bulk.places import fetched
from duotok.bulk.planning import Planned
from duotok.codec.duotok import DuoTok
from duotok.devices import reason_of
from duotok.errors import DuoTokError, one_line
from duotok.lm.song import TokenizedSong


@dataclass(frozen=True)
class Compared:
    """How many tokens of a song differ, of how many; error: why it could not be compared."""

    id: str
    differing: int = 0
    tokens: int = 0
    error: str = ""

    @property
    def equal(self) -> bool:
        return not self.differing and not self.error


def chosen(found: Iterable[Planned], count: int, seed: int = 0) -> list[Planned]:
    """`count` songs at random, each as likely as any other, in one pass."""
    draw = random.Random(seed)
    kept: list[Planned] = []
    for number, planned in enumerate(found):
        if len(kept) < count:
            kept.append(planned)
        elif (place := draw.randrange(number + 1)) < count:
            kept[place] = planned
    return kept


def compare(codec: DuoTok, planned: Planned, song: TokenizedSong, scratch: Path) -> Compared:
    """Encode a song as `DuoTok.encode` does from its files, and compare it with the store's."""
    try:
        with contextlib.ExitStack() as stack:
            files = {r: stack.enter_context(fetched(place, scratch))[0] for r, place in planned.entry.sources.items()}
            tokens = codec.encode(
                files.get("mix"), vocals=files.get("vocals"), accompaniment=files.get("accompaniment")
            )
    except DuoTokError as error:
        return Compared(song.id, error=one_line(error, None))
    except RuntimeError as error:  # torch's: memory of the device, or the device itself
        return Compared(song.id, error=f"cannot be encoded again ({reason_of(error)})")
    total = sum(codes.numel() for codes in tokens.values())
    if tokens.n_frames != song.frames:
        return Compared(song.id, total, total)
    return Compared(song.id, sum(int((codes.numpy() != song.tokens[s]).sum()) for s, codes in tokens.items()), total)
