"""The codecs of the transformers library: how each family is asked for codes, vectors and sound.

Sound is `[batch, channels, frames * hop]`, codes int64 `[batch, codebooks, frames]`, vectors `[batch, width, frames]`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from duotok.errors import BundleError


@dataclass(frozen=True)
class Shape:
    """What a configuration says. hop: samples of a frame; least: the fewest codebooks that can be asked for."""

    sample_rate: int
    hop: int
    channels: int
    codebooks: int
    codebook_size: int
    least: int = 1


class Family(ABC):
    """One kind of model. context: seconds that a window sees beyond what it keeps, on either side."""

    model_class: str
    context: float

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


class Dac(Family):
    """Convolutions only: a code depends on some thousand samples around it, far less than the context."""

    model_class = "DacModel"
    context = 1.0

    def shape(self, config: Any, name: str) -> Shape:
        return Shape(
            config.sampling_rate, math.prod(config.downsampling_ratios), 1, config.n_codebooks, config.codebook_size
        )

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        codes: Tensor = model.encode(sound, n_quantizers=codebooks).audio_codes
        return codes

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(audio_codes=codes).audio_values
        return sound[:, None]

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.from_codes(codes)[0]
        return vectors


class Encodec(Family):
    """Causal convolutions and an LSTM, whose memory begins anew in every window: hence more context."""

    model_class = "EncodecModel"
    context = 2.0

    def shape(self, config: Any, name: str) -> Shape:
        if config.normalize or config.chunk_length_s is not None:
            raise BundleError(
                f"{name}: codes overlapping chunks of {config.chunk_length_s} s, each with a loudness of its own that is no "
                "token (EnCodec 48 kHz); use a model without, e.g. EnCodec 24 kHz"
            )
        return Shape(
            config.sampling_rate, math.prod(config.upsampling_ratios), config.audio_channels, config.num_quantizers,
            config.codebook_size,
        )  # fmt: skip

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        rate = _bandwidth(model.config.target_bandwidths, model.quantizer.get_num_quantizers_for_bandwidth, codebooks)
        codes: Tensor = model.encode(sound, bandwidth=rate).audio_codes[0]
        return codes[:, :codebooks]

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(codes[None], [None]).audio_values
        return sound

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.decode(codes.transpose(0, 1))
        return vectors


class Mimi(Family):
    """Causal convolutions and a transformer that looks back many seconds: the context is a part of that."""

    model_class = "MimiModel"
    context = 5.0

    def shape(self, config: Any, name: str) -> Shape:
        if config.encoder_config is None or config.decoder_config is None:
            raise BundleError(f"{name}: half a model; get one with an encoder and a decoder")
        if config.frame_rate == config.encodec_frame_rate:
            raise BundleError(
                f"{name}: {config.frame_rate} frames a second as its convolutions have; transformers runs only "
                "Mimi models that go on to a lower rate"
            )
        hop = math.prod(config.upsampling_ratios) * config.latent_stride
        return Shape(
            config.sampling_rate, hop, config.audio_channels, config.num_quantizers, config.codebook_size,
            config.num_semantic_quantizers,
        )  # fmt: skip

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        codes: Tensor = model.encode(sound, num_quantizers=codebooks).audio_codes
        return codes

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(codes).audio_values
        return sound

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.decode(codes)
        return vectors


class Xcodec(Family):
    """A DAC encoder beside HuBERT, whose attention and first norm span the whole window."""

    model_class = "XcodecModel"
    context = 2.0

    def shape(self, config: Any, name: str) -> Shape:
        return Shape(config.sample_rate, config.hop_length, 1, config.num_quantizers, config.codebook_size)

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        rate = _bandwidth(model.config.target_bandwidths, model.quantizer.get_num_quantizers_for_bandwidth, codebooks)
        codes: Tensor = model.encode(sound, bandwidth=rate).audio_codes
        return codes[:, :codebooks]

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(codes).audio_values
        return sound

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.decode(codes.transpose(0, 1))
        return vectors


FAMILIES: dict[str, Family] = {"dac": Dac(), "encodec": Encodec(), "mimi": Mimi(), "xcodec": Xcodec()}
"""`model_type` of a config.json -> how to use it."""
WANT_TORCHAUDIO = ("higgs_audio_v2_tokenizer", "neucodec", "xcodec2")
"""Codecs of transformers that cannot encode without torchaudio, which DuoTok keeps out."""


def _bandwidth(bandwidths: Sequence[float], codebooks_of: Callable[[float], int], codebooks: int) -> float:
    """The lowest bandwidth (kbit/s) that gives `codebooks`; more codes are the same codes and others after them."""
    return next((rate for rate in sorted(bandwidths) if codebooks_of(rate) >= codebooks), max(bandwidths))
