"""X-Codec: acoustic and semantic features in one residual quantizer, as transformers has it (YuE's own is external/yue.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.families.base import Family, Shape, bandwidth

ENTRY = Entry(
    name="xcodec",
    what="X-Codec at 16 kHz: a DAC encoder beside HuBERT",
    sample_rate=16_000,
    channels=1,
    frame_rate=50.0,
    codebooks=8,
    codebook_size=1024,
    streams=EACH_TRACK,
    code_licence="Apache-2.0 (transformers); zhenye234/xcodec has no licence file",
    weights_licence="see the card of hf-audio/xcodec-hubert-general",
    needs="transformers",
    get=(
        "pip install 'duotok[lm]'",
        "hf download hf-audio/xcodec-hubert-general --local-dir models/xcodec",
    ),
    use="--model transformers:models/xcodec --codebooks 8",
    windows="HuBERT's attention and its first norm span the window: only sounds of up to 20 s, one window, are as coded whole",
    verified="the true architecture with random weights, against transformers: equal codes in one window; official weights were "
    "not there",
    cite="Ye et al., Codec Does Matter: Exploring the Semantic Shortcoming of Codec for Audio Language Model, 2024, "
    "arXiv:2408.17175",
)


class Xcodec(Family):
    """A DAC encoder beside HuBERT, whose attention and first norm span the whole window."""

    model_class = "XcodecModel"
    context = 2.0
    entries = (ENTRY,)

    def shape(self, config: Any, name: str) -> Shape:
        return Shape(config.sample_rate, config.hop_length, 1, config.num_quantizers, config.codebook_size)

    def encode(self, model: Any, sound: Tensor, codebooks: int) -> Tensor:
        rate = bandwidth(model.config.target_bandwidths, model.quantizer.get_num_quantizers_for_bandwidth, codebooks)
        codes: Tensor = model.encode(sound, bandwidth=rate).audio_codes
        return codes[:, :codebooks]

    def decode(self, model: Any, codes: Tensor) -> Tensor:
        sound: Tensor = model.decode(codes).audio_values
        return sound

    def vectors(self, model: Any, codes: Tensor) -> Tensor:
        vectors: Tensor = model.quantizer.decode(codes.transpose(0, 1))
        return vectors
