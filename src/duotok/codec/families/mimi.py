"""Mimi: Kyutai's tokenizer of speech, 12.5 frames a second."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.families.base import Family, Shape
from duotok.errors import BundleError

ENTRY = Entry(
    name="mimi",
    what="Mimi at 24 kHz: one semantic codebook and acoustic ones, causal with a transformer",
    sample_rate=24_000,
    channels=1,
    frame_rate=12.5,
    codebooks=32,
    codebook_size=2048,
    streams=EACH_TRACK,
    code_licence="Apache-2.0 (transformers), MIT (moshi)",
    weights_licence="CC BY 4.0",
    needs="transformers",
    get=("pip install 'duotok[lm]'", "hf download kyutai/mimi --local-dir models/mimi"),
    use="--model transformers:models/mimi --codebooks 8",
    windows="causal; its transformer looks back 80 s: 20 s windows with 5 s of context, the first as coded whole; exact everywhere "
    "with a context of all it sees",
    verified="the true architecture with random weights, against transformers: equal codes; official weights were not there",
    cite="Défossez et al., Moshi: a speech-text foundation model for real-time dialogue, 2024, arXiv:2410.00037",
)


class Mimi(Family):
    """Causal convolutions and a transformer that looks back many seconds: the context is a part of that."""

    model_class = "MimiModel"
    context = 5.0
    entries = (ENTRY,)

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
