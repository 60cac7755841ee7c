"""Replacement noise, equation 1: h~_t = (1 - m_t) h_t + m_t eps_t, m_t ~ Bernoulli(p), eps_t ~ N(0, sigma^2 I).

sigma is "estimated from feature statistics" (paper 3.2): here each channel's own standard deviation over the valid
frames of the whole batch, detached, times `scale`. The later layers learn not to rely on any single frame. Where the
channels are correlated such noise is far from the data and easily recognized; `covariance: full` draws it with the features'
whole covariance instead. Its mean is 0, as the equation has only a sigma; features may lie far from there, and `mean: features` puts
the noise where they are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from duotok.distributed import total
from duotok.model.draws import Random, normal, uniform
from duotok.nn.masks import frame_mask


def channel_std(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each channel's standard deviation over the valid frames of all processes, detached.

    `x [batch, frames, channels]` to `[channels]`.
    """
    return channel_moments(x, lengths)[1]


def channel_moments(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each channel's mean and standard deviation, as `channel_std`."""
    x = x.detach().float()
    mask = frame_mask(lengths, x.shape[1])
    real = x.new_ones(*x.shape[:2], 1) if mask is None else mask[..., None].to(x.dtype)
    # Mean first, then squared deviations: E[x^2] - E[x]^2 would lose precision where the mean is large.
    sums = total(torch.cat([(x * real).sum((0, 1)), real.sum()[None]]))
    count = sums[-1].clamp_min(1.0)
    mean = sums[:-1] / count
    squares = ((x - mean) * real).square().sum((0, 1))
    return mean, (total(squares) / count).sqrt()


def covariance_root(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Lower Cholesky factor of the channels' covariance over the valid frames of all processes, detached.

    `x [batch, frames, channels]` to `[channels, channels]`.
    """
    x = x.detach().double()  # where few dimensions are used, the others' spread is thousands of times smaller
    mask = frame_mask(lengths, x.shape[1])
    rows = (x if mask is None else x * mask[..., None]).flatten(0, 1)
    real = torch.tensor(float(len(rows)), device=x.device, dtype=x.dtype) if mask is None else mask.sum().to(x.dtype)
    sums = total(torch.cat([rows.sum(0), real[None]]))
    count = sums[-1].clamp_min(1.0)
    mean = sums[:-1] / count
    # padded rows are zero: subtract what they add through the mean
    outer = total((rows - mean).T @ (rows - mean) - (len(rows) - real) * torch.outer(mean, mean)) / count
    floor = 1e-8 * outer.diagonal().mean() + 1e-12
    root: Tensor = torch.linalg.cholesky(outer + floor * torch.eye(len(mean), device=x.device, dtype=x.dtype))
    return root.float()


class FrameNoise(nn.Module):
    """Noise on whole frames. `replacement` is the paper's; `additive` (h + m eps) and `none` are the controls."""

    def __init__(
        self,
        kind: Literal["replacement", "additive", "none"] = "replacement",
        probability: float = 0.2,
        scale: float = 1.0,
        sigma: float | None = None,
        covariance: Literal["diagonal", "full"] = "diagonal",
        mean: Literal["zero", "features"] = "zero",
    ) -> None:
        super().__init__()
        self.kind, self.probability, self.scale, self.sigma = kind, probability, scale, sigma
        self.covariance, self.mean = covariance, mean

    def forward(self, x: Tensor, lengths: Tensor | None = None, random: Random = None) -> Tensor:
        """`x [batch, frames, channels]` to the same; unchanged in eval mode. `random` makes the draw repeatable."""
        if not self.training or self.kind == "none" or self.probability == 0.0:
            return x
        chosen = uniform(random, tuple(x.shape[:2]), lengths, x.device) < self.probability
        noise = self.draw(x, lengths, random).to(x.dtype)
        changed = noise if self.kind == "replacement" else x + noise
        return torch.where(chosen[..., None], changed, x)

    def draw(self, x: Tensor, lengths: Tensor | None = None, random: Random = None) -> Tensor:
        """Noise for every frame of `x [batch, frames, channels]`."""
        noise = self._centred(x, lengths, random)
        return noise if self.mean == "zero" else noise + channel_moments(x, lengths)[0]

    def _centred(self, x: Tensor, lengths: Tensor | None, random: Random) -> Tensor:
        unit = normal(random, tuple(x.shape), lengths, x.device)
        if self.sigma is not None:
            return unit * self.sigma
        with torch.autocast(x.device.type, enabled=False):
            if self.covariance == "full":
                return self.scale * unit @ covariance_root(x, lengths).T
            return unit * channel_std(x, lengths) * self.scale
