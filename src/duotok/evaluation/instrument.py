"""What an instrument is: it observes one system on one song at a time, and makes rows of all observations.

`observe` runs anywhere, in any order and process, and gives plain JSON, so a run can stop and go on at every song (`suite`).
`rows` is cheap and sees all songs, for figures that no single song has, such as how many codes of a codebook occur at all.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec, Described
from duotok.errors import DuoTokError
from duotok.evaluation.results import Measure, Row
from duotok.tokens import Tokens
from duotok.tracks import TRACKS

MIX = "mix"
SOUNDING_DB = -50.0
"""dBFS above which a tenth of a second sounds."""
SOUNDING_SHARE = 0.1
"""Share of a stretch that must sound for a track to be judged: near-silence flatters every codec."""


@dataclass(frozen=True, eq=False)
class Song:
    """A stretch of a song as instruments get it.

    sounds: float32 `[channels, samples]` at 48 kHz, equally long: "mix", and "vocals" and "accompaniment" unless only the mix is
    known. part: which stretch, as "60 s"; "" for a whole song.
    """

    name: str
    sounds: Mapping[str, Tensor]
    part: str = ""

    @property
    def tracks(self) -> tuple[str, ...]:
        return tuple(track for track in (*TRACKS, MIX) if track in self.sounds)


class System(Protocol):
    """What is measured: a tokenizer behind the codec contract, or an anchor that has no tokens.

    name: in tables; model_hash: of all that gives its output; sample_rate: of the sound that it gives back; codec: None for an
    anchor; about: facts for captions, plain JSON.
    """

    @property
    def name(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def codec(self) -> Codec | None: ...
    @property
    def about(self) -> dict[str, Any]: ...

    def reconstruct(self, song: Song) -> dict[str, Tensor]:
        """Track -> sound `[channels, samples]` at `sample_rate` after coding and decoding, of every track that it has."""
        ...


@dataclass(frozen=True)
class Observation:
    """What was seen on one song, or why nothing was. tracks: those that the song has."""

    song: str
    part: str
    tracks: tuple[str, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Cost:
    """How often a song is encoded and decoded, and the seconds of one processor core for a second of it besides; an estimate."""

    encodings: int = 0
    decodings: int = 0
    besides: float = 0.0


class Instrument(ABC):
    """One instrument. name: of its cells; packages: those whose versions belong to its results; of_tokens: anchors have no answer.

    Subclasses are dataclasses whose fields are their settings, plain JSON: they become the `config` of cells, so a cell that was
    measured with others is measured again.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy")
    of_tokens: ClassVar[bool] = False

    @property
    @abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """What it measures, in the order of tables."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that its values depend on besides the system and the song, plain JSON."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) and not isinstance(self, type) else {}

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What a song costs, for `--dry-run`."""

    @abstractmethod
    def observe(self, system: System, song: Song) -> dict[str, Any]:
        """Measure one song; plain JSON. May raise anything: that song is then a gap with the error as its reason."""

    @abstractmethod
    def rows(self, observations: Sequence[Observation]) -> list[Row]:
        """The rows of a cell. A song with a reason gets rows with that reason: no gap is silent."""


class SongInstrument(Instrument):
    """An instrument whose every value belongs to one song."""

    @abstractmethod
    def measure(self, system: System, song: Song) -> Iterator[Row]:
        """The rows of one song; their `item` and `part` are filled in."""

    def observe(self, system: System, song: Song) -> dict[str, Any]:
        return {"rows": self.packed(self.measure(system, song))}

    @staticmethod
    def packed(rows: Iterator[Row]) -> list[list[Any]]:
        """Rows of one song as plain JSON."""
        return [[r.measure, r.track, r.value, r.reason, r.part] for r in rows]

    def rows(self, observations: Sequence[Observation]) -> list[Row]:
        result = list[Row]()
        for seen in observations:
            if seen.reason:
                result += self.gaps(seen)
            for measure, track, value, reason, part in () if seen.reason else seen.data["rows"]:
                result.append(Row(measure, track, seen.song, value, reason, part or seen.part))
        return result

    def tracks_of(self, measure: Measure) -> tuple[str, ...]:
        """The tracks on which a measure is taken."""
        return (*TRACKS, MIX)

    def gaps(self, seen: Observation) -> list[Row]:
        """A row for everything that this song would have given."""
        return [
            Row(measure.name, track, seen.song, None, seen.reason, seen.part)
            for measure in self.measures
            for track in self.tracks_of(measure)
            if track in seen.tracks
        ]


def sounding_seconds(sound: Tensor) -> float:
    """Seconds of `[channels, samples]` at 48 kHz above -50 dBFS, in steps of 0.1 s."""
    step = SAMPLE_RATE // 10
    mono = sound.mean(0)[: sound.shape[1] // step * step].reshape(-1, step)
    return float((mono.square().mean(1) > 10 ** (SOUNDING_DB / 10)).sum()) / 10


def why_silent(sound: Tensor) -> str:
    """Why a track `[channels, samples]` at 48 kHz sounds too little to be judged; "" where it does."""
    seconds = sound.shape[-1] / SAMPLE_RATE
    heard, least = sounding_seconds(sound), SOUNDING_SHARE * seconds
    if heard >= max(0.1, least):
        return ""
    return f"silent but for {heard:.1f} s of {seconds:.1f} s; a track is judged from {least:.1f} s on"


def encode(codec: Codec, sounds: Mapping[str, Tensor], rate: int, batch_size: int = 1) -> Tokens:
    """Tokens of a song from both stems, or from its mix where no stems are known. Raises AudioError."""
    if {*TRACKS} <= {*sounds}:
        given = {track: sounds[track] for track in TRACKS}
        return codec.encode(rate=rate, batch_size=batch_size, **given)
    return codec.encode(sounds[MIX], rate, batch_size=batch_size)


def facts_of(codec: Described) -> dict[str, Any]:
    """What tables say of a tokenizer: model, rates, codebooks, kbit/s of all streams with indices of fixed length."""
    from math import log2

    sizes = {stream.name: list(stream.codebook_sizes) for stream in codec.streams}
    bits = sum(log2(size) for stream in sizes.values() for size in stream)
    return {
        "model_id": codec.model_id,
        "sample_rate": codec.sample_rate,
        "frame_rate": codec.frame_rate,
        "streams": sizes,
        "kbps": codec.frame_rate * bits / 1000,
    }


class NoTokens(DuoTokError):
    """An instrument of tokens was given an anchor, which has none."""


def codec_of(system: System) -> Codec:
    """Raises NoTokens for an anchor."""
    if system.codec is None:
        raise NoTokens(f"{system.name} has no tokens")
    return system.codec
