"""A whole bundle, tiny and untrained, for tests: every part is real, only small and random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from duotok.codec.bundle import BundleConfig, CodecConfig, DiTConfigs, build, write_bundle
from duotok.model.config import TokenizerConfig
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.renderer.dit import DiTConfig
from duotok.renderer.render import RenderPlan
from duotok.separation.bs_roformer import BSRoFormerConfig


def tiny_config(**changes: object) -> BundleConfig:
    """Windows of 40 frames (1.6 s), so that a few seconds of sound already cross several."""
    dit = DiTConfig(
        condition_dim=4,
        condition_width=8,
        width=16,
        heads=2,
        blocks=1,
        time_dim=8,
        attention_window=4,
        conv_kernel=3,
        condition_kernel=3,
    )
    values: dict[str, object] = {
        "name": "tiny",
        "codec": CodecConfig(
            window=40, context=8, steps=2, render=RenderPlan(window=64, context=16, crossfade=8, decode_block=40)
        ),
        "tokenizer": TokenizerConfig.preset("tiny", n_mels=128, mask_bins=128, mask_bands=(32,) * 4),
        "autoencoder": AutoencoderConfig(
            encoder_width=16, encoder_blocks=(1, 1), decoder_width=16, decoder_blocks=(1, 1), expansion=2, kernel=3
        ),
        "dit": DiTConfigs(vocals=dit, accompaniment=dit),
        "separator": BSRoFormerConfig(
            bands=(41, 100, 300, 1000),
            groups=(1, 4, 10, 50),
            dim=8,
            depth=1,
            heads=1,
            head_dim=8,
            feedforward=16,
            mask_hidden=4,
        ),
    }
    return BundleConfig.model_validate({**values, **changes})


def tiny_bundle(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a tiny random bundle into `folder / "tiny"` and return that path."""
    config = tiny_config(**changes)
    torch.manual_seed(seed)
    modules = {part: build(config, part) for part in config.parts}
    return write_bundle(folder / "tiny", config, modules)


def song(seconds: float = 3.0, rate: int = 48_000, seed: int = 0) -> torch.Tensor:
    """Stereo something: a tune with noise, level and pitch changing, so that windows differ: `[2, samples]`."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    t = np.arange(n) / rate
    pitch = 220.0 * 2 ** (np.floor(2 * t) % 12 / 12)
    tune = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * (0.6 + 0.4 * np.sin(2 * np.pi * 1.7 * t))
    noise = 0.05 * rng.standard_normal((2, n)) * (np.sin(2 * np.pi * 2 * t) > 0.7)
    return torch.from_numpy((tune + noise).astype(np.float32))
