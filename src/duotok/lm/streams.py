"""What a language model knows of a codec: its streams, the sizes of their codebooks, its rates, and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PlainSerializer

from duotok.clock import FRAME_RATE, SAMPLE_RATE
from duotok.codec.contract import Described, Stream
from duotok.errors import TokenFileError
from duotok.tokens import DualTokens
from duotok.tracks import TRACKS

SPECIALS = 3
"""Entries after the V codes of a codebook: SOS = V, EOS = V + 1, PAD = V + 2 (docs/parameters.md, language model)."""


class Column(NamedTuple):
    """One codebook of one stream, which is one table and one head of the language model."""

    stream: str
    codebook: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.stream}.{self.codebook}"


@dataclass(frozen=True)
class CodecIdentity:
    """The codec that tokens belong to. hash: of everything that defines their meaning; frame_rate: frames a second, sample_rate: Hz.

    A corpus holds tokens of one identity only, and a language model accepts those of its own only.
    """

    name: str
    hash: str
    frame_rate: float
    sample_rate: int
    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"codec '{self.name}': streams {names}; there must be some, each with its own name")
        if not self.frame_rate > 0:
            raise ValueError(f"codec '{self.name}': frame_rate {self.frame_rate} must be above 0")

    @property
    def columns(self) -> tuple[Column, ...]:
        """All codebooks, stream by stream: the order of K everywhere."""
        return tuple(Column(s.name, k, size) for s in self.streams for k, size in enumerate(s.codebook_sizes))

    @property
    def fingerprint(self) -> str:
        """sha256 of everything here, in hex."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def stream(self, name: str) -> Stream:
        """A stream by name. Raises KeyError when there is none."""
        return {stream.name: stream for stream in self.streams}[name]

    def frames(self, seconds: float) -> int:
        """The frame that begins nearest to a moment."""
        return round(seconds * self.frame_rate)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "streams": [{"name": s.name, "sizes": [int(size) for size in s.codebook_sizes]} for s in self.streams]
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CodecIdentity:
        """Undo `as_json`. Raises ValueError, KeyError or TypeError for anything else."""
        streams = tuple(Stream(str(s["name"]), tuple(int(n) for n in s["sizes"])) for s in values["streams"])
        return cls(
            str(values["name"]), str(values["hash"]), float(values["frame_rate"]), int(values["sample_rate"]), streams
        )

    def __str__(self) -> str:
        return f"{self.name} {self.hash[:12]}".strip()

    def same(self, other: CodecIdentity) -> bool:
        """Whether tokens of the other codec mean what this one's do: its name is none of their meaning where it has a hash."""
        return other == self or (bool(self.hash) and dataclasses.replace(other, name=self.name) == self)

    def require(self, other: CodecIdentity, name: str) -> None:
        """Raises TokenFileError, beginning with `name`, unless `other` is the same codec (`same`)."""
        if not self.same(other):
            raise TokenFileError(f"{name}: tokens of {other}, expected those of {self}; pack with that codec")


def _from_json(values: Any) -> Any:
    try:
        return CodecIdentity.from_json(values) if isinstance(values, dict) else values
    except (KeyError, TypeError) as error:
        raise ValueError(f"no identity of a codec ({error!r})") from None


CodecField = Annotated[CodecIdentity, BeforeValidator(_from_json), PlainSerializer(CodecIdentity.as_json)]
"""An identity in a typed configuration, as `as_json` writes it."""


def codec_identity(codec: Described) -> CodecIdentity:
    """The identity of any codec: a `DuoTok`, or what `duotok.codec` opens."""
    return CodecIdentity(codec.model_id, codec.model_hash, codec.frame_rate, codec.sample_rate, codec.streams)


def tokens_identity(tokens: DualTokens) -> CodecIdentity:
    """The identity of the model that made a token file."""
    streams = tuple(Stream(track, (size,)) for track, size in zip(TRACKS, tokens.codebook_sizes, strict=True))
    return CodecIdentity(tokens.model_id, tokens.model_hash, FRAME_RATE, SAMPLE_RATE, streams)
