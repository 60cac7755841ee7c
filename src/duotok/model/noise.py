"""Replacement noise, equation 1: h~_t = (1 - m_t) h_t + m_t eps_t, m_t ~ Bernoulli(p), eps_t ~ N(0, sigma^2 I).

sigma is "estimated from feature statistics" (paper 3.2): here each channel's own standard deviation over the valid
frames of the batch, detached, times `scale`. What comes after learns not to rely on any single frame.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from duotok.model.transformer import frame_mask


def channel_std(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each channel's standard deviation over valid frames, detached: `x [batch, frames, channels]` to `[channels]`."""
    x = x.detach().float()
    mask = frame_mask(lengths, x.shape[1])
    if mask is None:
        return x.flatten(0, 1).std(0, correction=0)
    weight = mask[..., None].float()
    count = weight.sum().clamp_min(1.0)
    mean = (x * weight).sum((0, 1)) / count
    return (((x - mean).square() * weight).sum((0, 1)) / count).sqrt()


class FrameNoise(nn.Module):
    """Noise on whole frames. `replacement` is the paper's; `additive` (h + m eps) and `none` are the controls."""

    def __init__(
        self,
        kind: Literal["replacement", "additive", "none"] = "replacement",
        probability: float = 0.2,
        scale: float = 1.0,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.probability, self.scale, self.sigma = kind, probability, scale, sigma

    def forward(self, x: Tensor, lengths: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """`x [batch, frames, channels]` to the same; unchanged in eval mode. `generator` makes the draw repeatable."""
        if not self.training or self.kind == "none" or self.probability == 0.0:
            return x
        std = channel_std(x, lengths) * self.scale if self.sigma is None else self.sigma
        chosen = torch.rand(x.shape[:2], device=x.device, generator=generator) < self.probability
        noise = (torch.randn(x.shape, device=x.device, generator=generator) * std).to(x.dtype)
        changed = noise if self.kind == "replacement" else x + noise
        return torch.where(chosen[..., None], changed, x)
