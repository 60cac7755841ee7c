"""Tiny random models of the four families, written as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

RATE = 8000
HOP = {"dac": 40, "encodec": 40, "mimi": 80, "xcodec": 40}
CODEBOOKS = 4
SIZE = 16


def make_codec(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """Write a model of `kind` into `folder / kind` and return that path."""
    import transformers as t

    torch.manual_seed(seed)
    ratios = {"dac": [2, 4, 5], "encodec": [5, 4, 2], "mimi": [5, 4, 2], "xcodec": [5, 4, 2]}[kind]
    causal = {"num_filters": 2, "hidden_size": 8, "upsampling_ratios": ratios, "sampling_rate": RATE}
    if kind == "dac":
        values: dict[str, Any] = {"encoder_hidden_size": 4, "downsampling_ratios": ratios, "decoder_hidden_size": 16}
        values |= {"n_codebooks": CODEBOOKS, "codebook_size": SIZE, "codebook_dim": 3, "sampling_rate": RATE}
        model: Any = t.DacModel(t.DacConfig(**{**values, **changes}))
    elif kind == "encodec":
        values = {**causal, "codebook_size": SIZE, "num_lstm_layers": 1, "target_bandwidths": [0.8, 1.6, 3.2]}
        model = t.EncodecModel(t.EncodecConfig(**{**values, **changes}))
    elif kind == "mimi":
        values = {**causal, "codebook_size": SIZE, "codebook_dim": 6, "vector_quantization_hidden_dimension": 6}
        values |= {"num_quantizers": CODEBOOKS, "num_hidden_layers": 1, "num_attention_heads": 2, "upsample_groups": 8}
        values |= {"num_key_value_heads": 2, "intermediate_size": 16, "sliding_window": 20}
        model = t.MimiModel(t.MimiConfig(**{**values, **changes}))
    else:
        hubert = t.HubertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8, 8],
            conv_stride=ratios, conv_kernel=[10, 4, 2], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        dac = t.DacConfig(
            encoder_hidden_size=2, downsampling_ratios=ratios, upsampling_ratios=ratios, decoder_hidden_size=16,
            hidden_size=16, codebook_size=SIZE, codebook_dim=3, n_codebooks=2,
        )  # fmt: skip
        values = {"target_bandwidths": [0.8, 1.6, 3.2], "sample_rate": RATE, "codebook_size": SIZE}
        values |= {"acoustic_model_config": dac, "semantic_model_config": hubert}
        model = t.XcodecModel(t.XcodecConfig(**{**values, **changes}))
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # a fresh codebook is all zeros
            if name.endswith((".embed", ".embed_sum")):
                buffer.normal_(std=0.3)
        for name, weight in model.named_parameters():  # with fresh weights one and the same code comes everywhere
            if kind == "encodec" and name.endswith("original0"):
                weight.mul_(3)
            if kind in ("dac", "xcodec") and weight.ndim > 1 and "semantic" not in name:
                weight.normal_(std=weight[0].numel() ** -0.5)
    model.save_pretrained(folder / kind)
    return folder / kind


def sound(seconds: float, seed: int = 0, rate: int = RATE, channels: int = 1) -> torch.Tensor:
    """Noise whose loudness moves: `[channels, samples]`."""
    samples = round(seconds * rate)
    draw = torch.Generator().manual_seed(seed)
    swell = 0.2 + 0.2 * torch.sin(torch.arange(samples) / rate * 5)
    return torch.randn(channels, samples, generator=draw) * swell
