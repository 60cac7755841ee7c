"""Embeddings of any frame rate at the rate of the latents, by one rule for all tokenizers.

A latent frame of 20 ms is cut into ceil(frame rate / 50) equal slots; one of 40 ms, where the autoencoder has 25 latents a second,
into ceil(frame rate / 25). Each slot gets the mean of the token vectors over its time, weighted by overlap; the slots of a latent
frame stand side by side. So at 50 latents a second tokens of 25 Hz are repeated, those of 50 Hz are taken as they are, and of 75 Hz
each latent frame has two slots: nothing faster than a slot is lost but by the overlap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duotok.errors import ConfigError


def slots_of(frame_rate: float, latent_rate: float) -> int:
    """Slots of a latent frame (`latent_rate` a second) for tokens at `frame_rate` Hz."""
    if not frame_rate > 0:
        raise ConfigError(f"frame rate {frame_rate}: must be above 0")
    return max(1, math.ceil(frame_rate / latent_rate - 1e-6))


def at_latent_rate(vectors: Tensor, frame_rate: float, latent_frames: int, latent_rate: float) -> Tensor:
    """`[frames, width]` at `frame_rate` Hz to `[latent_frames, slots width]`; frame i covers the time from i / frame_rate.

    After the last token its vector stays.
    """
    slots = slots_of(frame_rate, latent_rate)
    edges = torch.arange(latent_frames * slots + 1, dtype=torch.float64) * frame_rate / (latent_rate * slots)
    sums = torch.cat([torch.zeros(1, vectors.shape[1], dtype=torch.float64), vectors.double().cumsum(0)])
    # Rounding must not reach into the next token where an edge falls on one.
    edges = torch.where((edges - edges.round()).abs() < 1e-9, edges.round(), edges)
    whole = edges.floor().long()
    last = vectors[-1].double()
    inside = whole.clamp_max(len(vectors))
    partial = torch.where(
        (whole < len(vectors))[:, None],
        (edges - whole)[:, None] * vectors[whole.clamp_max(len(vectors) - 1)].double(),
        (edges - len(vectors))[:, None] * last,
    )
    area = sums[inside] + partial
    means = area.diff(dim=0) / edges.diff()[:, None]
    return means.float().reshape(latent_frames, slots * vectors.shape[1])
