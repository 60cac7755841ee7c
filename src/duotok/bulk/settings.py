"""What a run of `duotok tokenize` is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from duotok.bulk.engines import Result, Times
from duotok.bulk.listing import Listing
from duotok.bulk.sources import IdentityOf, Splitting
from duotok.bulk.verifying import Compared
from duotok.errors import ConfigError
from duotok.records import Split

SHARD_SONGS = 1000


@dataclass(frozen=True)
class Settings:
    """split, identity: as of `Splitting`; retry: failed songs again; shard_songs: songs of a shard, of songs that are
    new to the store; verify: so many songs are encoded once more in the end, alone, and compared."""

    split: Split | None = None
    retry: bool = False
    shard_songs: int = SHARD_SONGS
    verify: int = 0
    seed: int = 0
    identity: IdentityOf = "song"

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.shard_songs < 1 or self.verify < 0:
            raise ConfigError(
                f"shard_songs = {self.shard_songs}, verify = {self.verify}: at least one song in a shard, and none or more to verify"
            )

    @property
    def splitting(self) -> Splitting:
        return Splitting(self.split, self.identity)


@dataclass
class Summary:
    """What a run did, in songs, and what the store holds now: songs, failed, frames, bytes."""

    listed: int = 0
    encoded: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Of music that was encoded."""
    store: dict[str, int] = field(default_factory=dict)
    listing: Listing = field(default_factory=Listing)
    damaged: int = 0
    """Songs that a shard had lost; the same command does them again."""
    verified: list[Compared] = field(default_factory=list)
    times: Times = field(default_factory=Times)


@dataclass
class Watch:
    """Called as the run goes on: `begun(songs listed)`, and `ended(id, result)` of each song that was worked on."""

    begun: Callable[[int], None] = lambda count: None
    ended: Callable[[str, Result], None] = lambda id, result: None
    kept: Callable[[int], None] = lambda count: None
