"""The interface of every family of the transformers library: its shape, codes, vectors and sound.

Sound is `[batch, channels, samples]`, codes int64 `[batch, codebooks, frames]`, vectors `[batch, width, frames]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from duotok.codec.entry import Entry


@dataclass(frozen=True)
class Shape:
    """Sizes from a configuration. hop: samples of a frame; least: the smallest number of codebooks that can be requested.

    chunk, stride: samples of overlapping chunks; 0 for models without chunks.
    """

    sample_rate: int
    hop: int
    channels: int
    codebooks: int
    codebook_size: int
    least: int = 1
    chunk: int = 0
    stride: int = 0


class Family(ABC):
    """One kind of model. context: seconds of context on either side of the kept part of a window."""

    model_class: str
    context: float
    entries: tuple[Entry, ...]

    @abstractmethod
    def shape(self, config: Any, name: str) -> Shape:
        """The sizes of a model. Raises BundleError, beginning with `name`, for a variant that cannot meet the codec contract."""

    @abstractmethod
    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        """The first `codebooks` codes of each frame."""

    @abstractmethod
    def decode(self, model: Any, codes: Tensor) -> Tensor:
        """Sound `[batch, channels, samples]`, about `frames * hop` samples."""

    @abstractmethod
    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        """The quantizer's output for codes, which is the decoder's input."""


class ChunkedFamily(Family):
    """A family with models that hear overlapping chunks, each with a loudness of its own."""

    @abstractmethod
    def encode_chunk(self, model: Any, sound: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
        """The codes of a batch of chunks, and the loudness of each: float32 `[batch]`."""

    @abstractmethod
    def decode_chunks(self, model: Any, codes: Sequence[Tensor], scales: Tensor) -> Tensor:
        """The sound `[channels, samples]` of all chunks, codes `[codebooks, frames]` and scales `[chunks]`."""


def bandwidth(bandwidths: Sequence[float], codebooks_of: Callable[[float], int], codebooks: int) -> float:
    """The lowest bandwidth (kbit/s) that gives `codebooks`; more codes are the same codes and others after them."""
    return next((rate for rate in sorted(bandwidths) if codebooks_of(rate) >= codebooks), max(bandwidths))
