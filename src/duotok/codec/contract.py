"""The codec contract: the interface of any tokenizer to measurements, packing and language models, and its tokens."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.errors import BundleError, ConfigError
from duotok.tokens import LARGEST_GAIN_DB, Tokens

Source = Any
"""A path, or sound from memory: what `duotok.audio.arrays.sound_of` takes."""


@dataclass(frozen=True)
class Stream:
    """One token stream of a codec: its name ("vocals", "accompaniment", "mix", ...) and the size of each of its codebooks."""

    name: str
    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name or not self.codebook_sizes or min(self.codebook_sizes) < 2:
            raise ValueError(
                f"stream '{self.name}' with codebooks of {self.codebook_sizes}: a name without colon, and sizes of at least 2"
            )

    @property
    def codebooks(self) -> int:
        return len(self.codebook_sizes)


@dataclass(frozen=True, eq=False)
class StreamTokens(Tokens):
    """Tokens in a dictionary, for codecs that have no class of their own for them.

    beside: what decoding needs besides the tokens, by stream and name: float32 arrays, e.g. `scale` `[1, chunks]`, the
    loudness of each chunk of EnCodec at 48 kHz.
    """

    codes: Mapping[str, Tensor]
    n_samples: int = 0
    gain_db: float = 0.0
    beside: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __getitem__(self, stream: str) -> Tensor:
        return self.codes[stream]

    def __iter__(self) -> Iterator[str]:
        return iter(self.codes)

    def __len__(self) -> int:
        return len(self.codes)


class HasStreams(Protocol):
    """What tokens are checked against."""

    @property
    def model_id(self) -> str: ...
    @property
    def streams(self) -> tuple[Stream, ...]: ...


class Described(HasStreams, Protocol):
    """The identity of a codec. model_hash: of all that gives its tokens their meaning. Rates are in Hz; frame_rate is exact."""

    @property
    def model_hash(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...


class Codec(Described, Protocol):
    """The operations of every codec."""

    def n_frames(self, n_samples: int) -> int:
        """Frames of `n_samples` samples at `sample_rate`, rounded up to whole frames."""
        ...

    def encode(
        self,
        audio: Source | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Source | None = None,
        accompaniment: Source | None = None,
        batch_size: int = 1,
    ) -> Tokens:
        """Tokens of a song: paths, or float tensors `[samples]` or `[channels, samples]` at `rate`. All streams have the same
        length. batch_size: windows encoded at once. Raises AudioError for sound that cannot be used."""
        ...

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        """Sound `[channels, samples]` at `sample_rate` of one stream, or of all together ("mix")."""
        ...

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Post-quantization vectors of each stream: float32 `[frames, width]`."""
        ...

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """The vector of every code of each stream, up to a constant: one table `[codes, width]` for each codebook."""
        ...


def check_gain(gain_db: Any) -> None:
    """Raises ConfigError for a gain that is no number of decibels, or beyond `LARGEST_GAIN_DB`."""
    if isinstance(gain_db, bool) or not isinstance(gain_db, numbers.Real) or not abs(float(gain_db)) <= LARGEST_GAIN_DB:
        raise ConfigError(f"gain_db {gain_db!r}: give decibels, within {LARGEST_GAIN_DB:g} of 0")


def check_codes(codec: HasStreams, stream: Stream, codes: Any, least: int = 1) -> int:
    """The number of frames of the codes of one stream, `[codebooks, frames]`. Raises BundleError when they cannot be those of `codec`:
    no integers, another shape, fewer than `least` frames, or codes outside a codebook."""
    tensor = isinstance(codes, Tensor)
    whole = tensor and not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    if not whole or codes.ndim != 2 or len(codes) != stream.codebooks or codes.shape[1] < least:
        found = f"{codes.dtype} {list(codes.shape)}" if tensor else type(codes).__name__
        raise BundleError(
            f"tokens of {stream.name}: {found}; {codec.model_id} has integers [{stream.codebooks}, frames]"
            f"{'' if tensor else ' as a tensor'}; give those of this codec"
        )
    for k, (row, size) in enumerate(zip(codes.long(), stream.codebook_sizes, strict=True)):
        low, high = (int(row.min()), int(row.max())) if len(row) else (0, 0)
        if low < 0 or high >= size:
            raise BundleError(
                f"tokens of {stream.name}, codebook {k}: {low if low < 0 else high} is no code of "
                f"{codec.model_id}, which has 0 to {size - 1}; give those of this codec"
            )
    return int(codes.shape[1])


def check_tokens(codec: Described, tokens: Mapping[str, Tensor]) -> int:
    """The number of frames of `tokens`. Raises BundleError when they cannot be those of `codec`: other streams or shapes, codes
    outside a codebook, or streams of unequal length."""
    names = [stream.name for stream in codec.streams]
    if set(tokens) != set(names):
        raise BundleError(
            f"tokens with the streams {', '.join(tokens) or 'none'}; {codec.model_id} has {', '.join(names)}; "
            "give those of this codec"
        )
    lengths = {stream.name: check_codes(codec, stream, tokens[stream.name]) for stream in codec.streams}
    if len({*lengths.values()}) > 1:
        frame_counts = ", ".join(f"{name} {frames}" for name, frames in lengths.items())
        raise BundleError(f"streams of unequal length ({frame_counts} frames); give tokens of one sound")
    return lengths[names[0]]
