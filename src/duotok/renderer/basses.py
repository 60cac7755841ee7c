"""Latents for basses: the lowest bins of the decoder's spectrum, told by a small part of the autoencoder that knows nothing else.

300 Hz and below are 24 of the 1,921 bins of an 80 ms window. A mean over bins or mel bands hardly hears them, so the rest of the
autoencoder learns them last, and a bass plays wrong notes (docs/experiments/basses-in-sound.md). Here a few latents belong to these bins
alone: they can be added to an autoencoder that is trained already, and all that it tells stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotok.renderer.griffin_lim import FAINT

WIDTH = 128
ENCODER_BLOCKS = (2, 1)
"""Residual blocks of `WIDTH` at 100 Hz, at 50 Hz."""
DECODER_BLOCKS = (1, 2)
"""At 50 Hz, at 100 Hz."""
MARGIN = 8
"""Bins above the highest that the encoder sees besides: the other side of a partial at the edge."""


class BassEncoder(nn.Module):
    """Magnitudes of the lowest bins at 100 Hz to latents at 50 Hz that a buffer brings to unit variance.

    bins: those to be told; blocks: as many as `ENCODER_BLOCKS` says.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bins: int, latents: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.seen = bins + MARGIN
        self.enter = nn.Linear(self.seen, WIDTH)
        self.fine = nn.Sequential(*blocks[: ENCODER_BLOCKS[0]])
        self.pool = nn.Linear(2 * WIDTH, WIDTH)
        self.coarse = nn.Sequential(*blocks[ENCODER_BLOCKS[0] :], nn.LayerNorm(WIDTH))
        self.leave = nn.Linear(WIDTH, latents)
        self.register_buffer("mean", torch.zeros(latents))
        self.register_buffer("std", torch.ones(latents))

    def forward(self, magnitude: Tensor) -> Tensor:
        """`[batch, frames, bins of the spectrum]`, an even number of frames, to `[batch, frames / 2, latents]`, not standardised."""
        x = self.fine(self.enter(magnitude[..., : self.seen].clamp_min(FAINT).log() / 4))
        latents: Tensor = self.leave(self.coarse(self.pool(x.reshape(x.shape[0], x.shape[1] // 2, -1))))
        return latents


class BassDecoder(nn.Module):
    """All latents at 50 Hz to what is added to ln magnitudes of the lowest bins at 100 Hz: nothing, before it has learned.

    blocks: as many as `DECODER_BLOCKS` says.
    """

    def __init__(self, bins: int, latent_dim: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.bins = bins
        self.enter = nn.Conv1d(latent_dim, WIDTH, 3, padding=1)
        self.coarse = nn.Sequential(*blocks[: DECODER_BLOCKS[0]])
        self.unpool = nn.Linear(WIDTH, 2 * WIDTH)
        self.fine = nn.Sequential(*blocks[DECODER_BLOCKS[0] :], nn.LayerNorm(WIDTH))
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
