"""Latents for basses: the lowest bins of the decoder's spectrum, told by a small part of the autoencoder that knows nothing else.

300 Hz and below are 24 of the 1,921 bins of an 80 ms window. A mean over bins or mel bands hardly hears them, so the rest of the
autoencoder learns them last, and a bass plays wrong notes (docs/renderer.md, "Basses"). Here a few latents belong to these bins
alone: they can be added to an autoencoder that is trained already, and all that it tells stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 128
MARGIN = 8
"""Bins above the highest that the encoder sees besides: the other side of a partial at the edge."""


class BassEncoder(nn.Module):
    """Magnitudes of the lowest bins at 100 Hz to latents at 50 Hz that a buffer brings to unit variance.

    blocks: residual blocks of `WIDTH`, two for 100 Hz and one for 50 Hz. bins: that are to be told.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bins: int, latents: int, blocks: list[nn.Module], floor: float) -> None:
        super().__init__()
        self.seen, self.floor = bins + MARGIN, floor
        self.enter = nn.Linear(self.seen, WIDTH)
        self.fine = nn.Sequential(*blocks[:2])
        self.pool = nn.Linear(2 * WIDTH, WIDTH)
        self.coarse = nn.Sequential(*blocks[2:], nn.LayerNorm(WIDTH))
        self.leave = nn.Linear(WIDTH, latents)
        self.register_buffer("mean", torch.zeros(latents))
        self.register_buffer("std", torch.ones(latents))

    def forward(self, magnitude: Tensor) -> Tensor:
        """`[batch, frames, bins of the spectrum]`, an even number of frames, to `[batch, frames / 2, latents]`, not standardised."""
        x = self.fine(self.enter(magnitude[..., : self.seen].clamp_min(self.floor).log() / 4))
        latents: Tensor = self.leave(self.coarse(self.pool(x.reshape(x.shape[0], x.shape[1] // 2, -1))))
        return latents


class BassDecoder(nn.Module):
    """All latents at 50 Hz to what is added to ln magnitudes of the lowest bins at 100 Hz: nothing, before it has learned.

    blocks: residual blocks of `WIDTH`, one for 50 Hz and two for 100 Hz.
    """

    def __init__(self, bins: int, latent_dim: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.bins = bins
        self.enter = nn.Conv1d(latent_dim, WIDTH, 3, padding=1)
        self.coarse = nn.Sequential(*blocks[:1])
        self.unpool = nn.Linear(WIDTH, 2 * WIDTH)
        self.fine = nn.Sequential(*blocks[1:], nn.LayerNorm(WIDTH))
        self.leave = nn.Linear(WIDTH, bins)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """`[batch, latent_frames, latent_dim]` to `[batch, 2 latent_frames, bins]`."""
        x = self.unpool(self.coarse(self.enter(latents.transpose(1, 2)).transpose(1, 2)))
        x = self.fine(x.reshape(x.shape[0], 2 * latents.shape[1], -1))
        with torch.autocast(x.device.type, enabled=False):
            added: Tensor = self.leave(x.float())
        return added
