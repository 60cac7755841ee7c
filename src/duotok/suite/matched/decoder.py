"""The decoder that is the same for all tokenizers: a linear layer that reads embeddings of any width, then the DiT of stage 4.

Paper, B.3.1: an identical latent diffusion decoder on frozen codebook embeddings. Identical are shape and starting values of the
DiT; the linear layer alone has the width of the embeddings. Embeddings are standardised by channel first, so that none gains
from its scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotok.errors import ConfigError
from duotok.renderer.contract import LatentDiffusion, LatentDiffusionConfig
from duotok.renderer.kinds import AnyDiTConfig, make_dit


class MatchedDecoder(nn.Module):
    """A `VelocityModel` whose condition is at the rate of the latents: `[batch, latent_frames, width]`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: AnyDiTConfig, width: int, seed: int) -> None:
        """width: of the embeddings at the rate of the latents. The DiT follows from `config` and `seed` alone."""
        super().__init__()
        self.per_frame = config.latents_per_frame
        if config.condition_dim % self.per_frame:
            raise ConfigError(
                f"dit.condition_dim {config.condition_dim}: must be even, half for each latent frame of a token"
            )
        if config.unconditional:
            raise ConfigError("dit.unconditional: the matched decoder is never without its condition; leave it out")
        torch.manual_seed(seed)
        self.dit: LatentDiffusion = make_dit(config)
        torch.manual_seed(seed)
        self.adapter = nn.Linear(width, config.condition_dim // self.per_frame)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @property
    def config(self) -> LatentDiffusionConfig:
        """Of the DiT."""
        config: LatentDiffusionConfig = self.dit.config
        return config

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take mean and deviation of each channel `[width]`; a channel that never changes is switched off."""
        self.mean.copy_(mean)
        alive = deviation > 1e-6 * (1 + mean.abs())
        self.scale.copy_(torch.where(alive, 1 / deviation.clamp_min(1e-12), torch.zeros_like(deviation)))

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Velocity `[batch, latent_frames, latent_dim]`; latent_frames: a whole number of tokens of 40 ms."""
        read = self.adapter((condition - self.mean) * self.scale)
        tokens = read.reshape(len(read), -1, self.per_frame * read.shape[-1])
        velocity: Tensor = self.dit(noisy, t, tokens, lengths)
        return velocity
