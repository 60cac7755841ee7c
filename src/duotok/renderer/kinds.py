"""Builds the autoencoder or diffusion transformer of a configuration by its `kind`; without one, DuoTok's own."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig
from duotok.renderer.contract import LatentAutoencoder, LatentDiffusion
from duotok.renderer.dit import DiT, DiTConfig
from duotok.renderer.ear_vae import EarVAE, EarVAEConfig
from duotok.renderer.ear_vae2 import EarVAE2, EarVAE2Config
from duotok.renderer.stable_audio import StableAudioConfig, StableAudioDiT

OURS = "kind: ours"


def _kind(value: Any) -> str:
    """The kind of a configuration. A missing or unknown one is read as our own, whose validation reports the error."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"kind: {kind}" if kind in ("ear-vae", "ear-vae2", "stable-audio") else OURS


AnyAutoencoderConfig = Annotated[
    Annotated[AutoencoderConfig, Tag(OURS)]
    | Annotated[EarVAEConfig, Tag("kind: ear-vae")]
    | Annotated[EarVAE2Config, Tag("kind: ear-vae2")],
    Discriminator(_kind),
]
AnyDiTConfig = Annotated[
    Annotated[DiTConfig, Tag(OURS)] | Annotated[StableAudioConfig, Tag("kind: stable-audio")], Discriminator(_kind)
]


def make_autoencoder(config: AutoencoderConfig | EarVAEConfig | EarVAE2Config) -> LatentAutoencoder:
    """With random weights."""
    if isinstance(config, EarVAE2Config):
        return EarVAE2(config)
    return EarVAE(config) if isinstance(config, EarVAEConfig) else Autoencoder(config)


def make_dit(config: DiTConfig | StableAudioConfig) -> LatentDiffusion:
    """With random weights."""
    return StableAudioDiT(config) if isinstance(config, StableAudioConfig) else DiT(config)
