"""The codec contract: what instruments, packing and language models ask of any tokenizer, and the tokens it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.errors import BundleError
from duotok.tokens import Tokens

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

    beside: what decoding needs of a stream and is no token, by stream and name: float32 arrays, e.g. `scale` `[1, chunks]`, the
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


class Described(Protocol):
    """Who a codec is. model_hash: of all that gives its tokens their meaning; rates a second, frame_rate exact."""

    @property
    def model_id(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    @property
    def streams(self) -> tuple[Stream, ...]: ...


class Codec(Described, Protocol):
    """What every codec does."""

    def n_frames(self, n_samples: int) -> int:
        """Frames of `n_samples` samples at `sample_rate`: a started frame counts, at every remainder."""
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
        """Tokens of a song: paths, or float tensors `[samples]` or `[channels, samples]` at `rate`; all streams equally
        long. batch_size: windows at once. Raises AudioError for sound that cannot be used."""
        ...

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        """Sound `[channels, samples]` at `sample_rate` of one stream, or of all together ("mix")."""
        ...

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Post-quantization vectors of each stream: float32 `[frames, width]`."""
        ...

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """What every code of each stream stands for, one table `[codes, width]` a codebook, up to a constant."""
        ...


def check_tokens(codec: Described, tokens: Mapping[str, Tensor]) -> int:
    """How many frames `tokens` have. Raises BundleError when they cannot be those of `codec`: other streams or shapes, codes
    past the end of a codebook, streams of unequal length."""
    wanted = [stream.name for stream in codec.streams]
    if set(tokens) != set(wanted):
        raise BundleError(
            f"tokens with the streams {', '.join(tokens) or 'none'}; {codec.model_id} has {', '.join(wanted)}; "
            "give those of this codec"
        )
    for stream in codec.streams:
        codes = tokens[stream.name]
        if codes.ndim != 2 or len(codes) != stream.codebooks or codes.is_floating_point() or codes.shape[1] < 1:
            raise BundleError(
                f"tokens of {stream.name}: {codes.dtype} {list(codes.shape)}; {codec.model_id} has integers "
                f"[{stream.codebooks}, frames]; give those of this codec"
            )
        for k, (row, size) in enumerate(zip(codes, stream.codebook_sizes, strict=True)):
            low, high = int(row.min()), int(row.max())
            if low < 0 or high >= size:
                raise BundleError(
                    f"tokens of {stream.name}, codebook {k}: {low if low < 0 else high} is no code of "
                    f"{codec.model_id}, which has 0 to {size - 1}; give those of this codec"
                )
    lengths = {name: tokens[name].shape[1] for name in wanted}
    if len({*lengths.values()}) > 1:
        found = ", ".join(f"{name} {frames}" for name, frames in lengths.items())
        raise BundleError(f"streams of unequal length ({found} frames); give tokens of one sound")
    return int(lengths[wanted[0]])
