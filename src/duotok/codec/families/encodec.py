"""EnCodec: at 24 kHz a stream of frames, at 48 kHz overlapping chunks with a loudness each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.families.base import ChunkedFamily, Shape, bandwidth
from duotok.errors import BundleError

CITE = "Défossez et al., High Fidelity Neural Audio Compression, 2022, arXiv:2210.13438"
LICENCE = "see its card (MIT in the repository; the metadata on PyPI says CC BY-NC)"

ENTRIES = (
    Entry(
        name="encodec-24khz",
        what="EnCodec at 24 kHz, mono, causal",
        sample_rate=24_000,
        channels=1,
        frame_rate=75.0,
        codebooks=32,
        codebook_size=1024,
        streams=EACH_TRACK,
        code_licence="MIT",
        weights_licence=LICENCE,
        needs="transformers",
        get=("pip install 'duotok[lm]'", "hf download facebook/encodec_24khz --local-dir models/encodec_24khz"),
        use="--model transformers:models/encodec_24khz --codebooks 8",
        windows="causal, with an LSTM: 20 s windows with 2 s of context; the first window is as coded whole, in later ones the "
        "memory begins anew",
        verified="the true architecture with random weights, against transformers: equal codes in the first window; official "
        "weights were not there",
        cite=CITE,
    ),
    Entry(
        name="encodec-48khz",
        what="EnCodec at 48 kHz, stereo, in chunks of a second with a loudness each",
        sample_rate=48_000,
        channels=2,
        frame_rate=150 / 0.99,
        codebooks=16,
        codebook_size=1024,
        streams=EACH_TRACK + "; beside the codes `scale`, one number a chunk",
        code_licence="MIT",
        weights_licence=LICENCE,
        needs="transformers",
        get=("pip install 'duotok[lm]'", "hf download facebook/encodec_48khz --local-dir models/encodec_48khz"),
        use="--model transformers:models/encodec_48khz --codebooks 8",
        windows="chunks of 1 s every 0.99 s, coded by themselves: 150 frames each, the last as many as it has; a code sees its "
        "chunk and no more, so the whole sound at once gives the same",
        verified="the true architecture with random weights, against transformers: equal codes, scales and sound; official "
        "weights were not there",
        cite=CITE,
    ),
)


class Encodec(ChunkedFamily):
    """Convolutions and an LSTM, whose state is reset in every window: hence more context.

    Models with chunks (48 kHz) normalise the loudness of each chunk and store the scale beside the codes.
    """

    model_class = "EncodecModel"
    context = 2.0
    entries = ENTRIES

    def shape(self, config: Any, name: str) -> Shape:
        hop = math.prod(config.upsampling_ratios)
        chunk, stride = (config.chunk_length, config.chunk_stride) if config.chunk_length_s is not None else (0, 0)
        if config.normalize and not chunk:
            raise BundleError(
                f"{name}: one loudness for the whole sound and no chunks (normalize, without chunk_length_s); windows would "
                "have other codes than the whole; take a published EnCodec"
            )
        if chunk and (chunk % hop or not 0 < stride <= chunk):
            raise BundleError(
                f"{name}: chunks of {chunk} samples every {stride} are no whole frames of {hop}; take a published EnCodec"
            )
        return Shape(
            config.sampling_rate, hop, config.audio_channels, config.num_quantizers, config.codebook_size,
            chunk=chunk, stride=stride,
        )  # fmt: skip

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        codes: Tensor = self._encoded(model, sound, codebooks).audio_codes[0]
        return codes[:, :codebooks]

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(codes[None], [None]).audio_values
        return sound

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.decode(codes.transpose(0, 1))
        return vectors

    def encode_chunk(self, model: Any, sound: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
        # The model cuts its input into chunks itself: of a whole chunk, its first chunk is all, and its second only the overlap.
        output = self._encoded(model, sound, codebooks)
        scale = output.audio_scales[0]
        scales = torch.ones(len(sound)) if scale is None else scale.reshape(-1).float().cpu()
        return output.audio_codes[0][:, :codebooks], scales

    def decode_chunks(self, model: Any, codes: Sequence[Tensor], scales: Tensor) -> Tensor:
        scale = [s.reshape(1, 1) if model.config.normalize else None for s in scales]
        longest = codes[0].shape[-1]
        missing = longest - codes[-1].shape[-1]
        whole = [torch.nn.functional.pad(c, (0, longest - c.shape[-1])) for c in codes]
        sound: Tensor = model.decode(torch.stack(whole)[:, None], scale, last_frame_pad_length=missing).audio_values
        return sound[0]

    def _encoded(self, model: Any, sound: Tensor, codebooks: int) -> Any:
        return model.encode(sound, bandwidth=self._rate(model, codebooks))

    def _rate(self, model: Any, codebooks: int) -> float:
        return bandwidth(model.config.target_bandwidths, model.quantizer.get_num_quantizers_for_bandwidth, codebooks)
