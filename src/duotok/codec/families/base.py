"""What every family of the transformers library is asked: its shape, codes, vectors and sound.

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
    """What a configuration says. hop: samples of a frame; least: the fewest codebooks that can be asked for.

    chunk, stride: samples of the overlapping chunks of a model that codes those; 0 for all others.
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
    """One kind of model. context: seconds that a window sees beyond what it keeps, on either side."""

    model_class: str
    context: float
    entries: tuple[Entry, ...]

    @abstractmethod
    def shape(self, config: Any, name: str) -> Shape:
        """Raises BundleError, beginning with `name`, for a variant that keeps no contract."""

    @abstractmethod
    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        """The first `codebooks` codes of each frame."""

    @abstractmethod
    def decode(self, model: Any, codes: Tensor) -> Tensor:
        """Sound `[batch, channels, samples]`, about `frames * hop` samples."""

    @abstractmethod
    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        """What the quantizer makes of codes: what the decoder hears."""

    def encode_chunk(self, model: Any, sound: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
        """For models with chunks: the codes of some of them, and the loudness of each: float32 `[batch]`."""
        raise NotImplementedError

    def decode_chunks(self, model: Any, codes: Sequence[Tensor], scales: Tensor) -> Tensor:
        """For models with chunks: the sound `[channels, samples]` of all chunks, codes `[codebooks, frames]` and scales `[chunks]`."""
        raise NotImplementedError


def bandwidth(bandwidths: Sequence[float], codebooks_of: Callable[[float], int], codebooks: int) -> float:
    """The lowest bandwidth (kbit/s) that gives `codebooks`; more codes are the same codes and others after them."""
    return next((rate for rate in sorted(bandwidths) if codebooks_of(rate) >= codebooks), max(bandwidths))
