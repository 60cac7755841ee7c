"""The interfaces of autoencoders and diffusion transformers to the renderer.

`autoencoder.Autoencoder`, `ear_vae.EarVAE` and `ear_vae2.EarVAE2` keep the first, `dit.DiT` and `stable_audio.StableAudioDiT` the second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from duotok.clock import FRAME_SAMPLES
from duotok.renderer.diffusion import Objective


class LatentDecoder(Protocol):
    """An autoencoder as rendering needs it."""

    @property
    def hop(self) -> int:
        """Samples of a latent frame."""
        ...

    @property
    def receptive_field(self) -> int:
        """Latent frames on each side that a decoded sample can depend on."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """`[batch, latent_frames, latent_dim]` to `[batch, channels, hop * latent_frames]`."""
        ...


class LatentAutoencoder(nn.Module, ABC):
    """Sound and unit-variance latents."""

    config: Any

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the sound, in and out: 1 or 2."""

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples of a latent frame. The renderer takes 960 and 1920."""

    @property
    def latents_per_frame(self) -> int:
        """Latent frames of a token frame: 2, or 1 for an autoencoder of 25 latents a second."""
        return FRAME_SAMPLES // self.hop

    @property
    @abstractmethod
    def receptive_field(self) -> int:
        """Latent frames on each side that a decoded sample can depend on."""

    @property
    @abstractmethod
    def encoder_field(self) -> int:
        """Latent frames on each side whose sound a latent can depend on."""

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """`[batch, channels, samples]` to `[batch, ceil(samples / hop), latent_dim]`."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """`[batch, latent_frames, latent_dim]` to `[batch, channels, hop * latent_frames]`."""


class LatentDiffusionConfig(Protocol):
    """The part of a transformer's configuration that rendering and training read."""

    @property
    def latent_dim(self) -> int: ...
    @property
    def latents_per_frame(self) -> int: ...
    @property
    def condition(self) -> Literal["code", "proj_out"]: ...
    @property
    def condition_dim(self) -> int: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def unconditional(self) -> bool: ...
    @property
    def guidance(self) -> float: ...


class LatentDiffusion(nn.Module, ABC):
    """Noisy latents, time and code vectors to the velocity."""

    config: Any
    """A `LatentDiffusionConfig`, of the class that this kind of transformer has."""

    @property
    @abstractmethod
    def receptive_field(self) -> int | None:
        """Latent frames on each side that one evaluation can see; None: all of them."""

    @abstractmethod
    def standardise(self, vectors: Tensor) -> None:
        """Take mean and spread from the code vectors in use `[n, condition_dim]`: the condition gets unit variance."""

    @abstractmethod
    def forward(
        self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """As `dit.DiT.forward`."""
