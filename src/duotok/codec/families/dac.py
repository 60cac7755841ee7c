"""DAC: convolutions only, residual codebooks."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.families.base import Family, Shape

RATES = ((16, 320, 12), (24, 320, 32), (44.1, 512, 9))  # kHz, hop, codebooks


def _entry(khz: float, hop: int, codebooks: int) -> Entry:
    name = f"dac_{khz:g}khz" if khz != 44.1 else "dac_44khz"
    return Entry(
        name=name.replace("_", "-"),
        what=f"Descript Audio Codec at {khz:g} kHz: convolutions and a residual quantizer",
        sample_rate=round(1000 * khz),
        channels=1,
        frame_rate=1000 * khz / hop,
        codebooks=codebooks,
        codebook_size=1024,
        streams=EACH_TRACK,
        code_licence="MIT",
        weights_licence="MIT",
        needs="transformers",
        get=("pip install 'duotok[lm]'", f"hf download descript/{name} --local-dir models/{name}"),
        use=f"--model transformers:models/{name} --codebooks {min(codebooks, 8)}",
        windows="a code sees about 0.1 s on either side; 20 s windows with 1 s of context give the same codes as the whole sound",
        verified="the true architecture with random weights, against transformers: equal codes; official weights were not there",
        cite="Kumar et al., High-Fidelity Audio Compression with Improved RVQGAN, 2023, arXiv:2306.06546",
    )


class Dac(Family):
    """A code depends on some thousand samples around it, far less than the context."""

    model_class = "DacModel"
    context = 1.0
    entries = tuple(_entry(*rate) for rate in RATES)

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
