"""What the DiT learns: from latents x0 and noise e, x_t = alpha x0 + sigma e; the output is the velocity of that path.

Two objectives, both of stable-audio-tools; the paper (3.4) names none, v is the default there and here:

    "v"     alpha = cos(pi t / 2), sigma = sin(pi t / 2),   v = alpha e - sigma x0   (arXiv 2202.00512, appendix D)
    "flow"  alpha = 1 - t,         sigma = t,               v = e - x0               (arXiv 2209.03003)

t runs from 0 (clean) to 1 (pure noise).
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from duotok.distributed import mean_divisor
from duotok.nn.masks import frame_mask

Objective = Literal["v", "flow"]


class VelocityModel(Protocol):
    """A DiT, or a function with the same arguments."""

    def __call__(self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None, /) -> Tensor: ...


def alpha_sigma(t: Tensor, objective: Objective = "v") -> tuple[Tensor, Tensor]:
    """Weights of latents and noise at time t, in the shape of t; alpha is exactly 0 at t = 1, sigma at t = 0."""
    if objective == "flow":
        return 1 - t, t.clone()
    # cos(pi t / 2) as a sine: exactly 0 at t = 1, where the cosine of a rounded pi / 2 is not.
    return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def _columns(values: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return values[0][:, None, None], values[1][:, None, None]


def add_noise(latents: Tensor, noise: Tensor, t: Tensor, objective: Objective = "v") -> Tensor:
    """x_t of latents and noise `[batch, latent_frames, latent_dim]` at t `[batch]`."""
    alpha, sigma = _columns(alpha_sigma(t, objective))
    return alpha * latents + sigma * noise


def velocity(latents: Tensor, noise: Tensor, t: Tensor, objective: Objective = "v") -> Tensor:
    """The target of the model at t `[batch]`."""
    if objective == "flow":
        return noise - latents
    alpha, sigma = _columns(alpha_sigma(t, objective))
    return alpha * noise - sigma * latents


def clean(noisy: Tensor, v: Tensor, t: Tensor, objective: Objective = "v") -> Tensor:
    """x0 from x_t and its velocity, t `[batch]`."""
    alpha, sigma = _columns(alpha_sigma(t, objective))
    return noisy - sigma * v if objective == "flow" else alpha * noisy - sigma * v


def noise_of(noisy: Tensor, v: Tensor, t: Tensor, objective: Objective = "v") -> Tensor:
    """The noise in x_t, from its velocity, t `[batch]`."""
    alpha, sigma = _columns(alpha_sigma(t, objective))
    return noisy + alpha * v if objective == "flow" else sigma * noisy + alpha * v


def stratified_times(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """One t in each of `batch` equal parts of (0, 1), `[batch]`: uniform over steps, and even within every step."""
    offsets = torch.rand(batch, generator=generator)
    times = (torch.arange(batch) + offsets) / batch
    return times.clamp(1e-4, 1 - 1e-4)


def min_snr_weight(t: Tensor, gamma: float, objective: Objective = "v") -> Tensor:
    """min-SNR-gamma (arXiv 2303.09556, section 3.4) for a loss on the velocity: min(SNR, gamma) sigma^2, `[batch]`.

    The error of x0 is sigma times that of the velocity under both objectives, hence the sigma^2.
    """
    alpha, sigma = alpha_sigma(t, objective)
    return torch.minimum(alpha**2, gamma * sigma**2)


def masked_mean_square(error: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean square over the real latent frames of each item: `[batch, latent_frames, latent_dim] -> [batch]`."""
    square = error.square().mean(-1)
    if lengths is None:
        return square.mean(1)
    valid = frame_mask(lengths, square.shape[1])
    return (square * valid).sum(1) / lengths.clamp_min(1)


def signal_to_noise(estimate: Tensor, truth: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-noise ratio (SI-SNR) in dB of the real latent frames of each item: `[batch]`.

    estimate, truth: `[batch, latent_frames, latent_dim]`; an item's values, less their mean, are one signal.
    """
    limit = torch.full((len(truth),), truth.shape[1], device=truth.device) if lengths is None else lengths
    real = frame_mask(limit, truth.shape[1])[..., None]
    count = (limit * truth.shape[2]).clamp_min(1)[:, None, None]

    def centred(x: Tensor) -> Tensor:
        x = x.float() * real
        return (x - x.sum((1, 2), keepdim=True) / count) * real

    a, b = centred(estimate), centred(truth)
    scaled = (a * b).sum((1, 2), keepdim=True) / b.square().sum((1, 2), keepdim=True).clamp_min(1e-8) * b
    signal, noise = scaled.square().sum((1, 2)), (a - scaled).square().sum((1, 2))
    return 10 * torch.log10((signal + 1e-8) / (noise + 1e-8))


def diffusion_loss(
    model: VelocityModel,
    latents: Tensor,
    condition: Tensor,
    lengths: Tensor | None = None,
    *,
    t: Tensor,
    noise: Tensor,
    objective: Objective = "v",
    min_snr: float | None = None,
    si_snr: float = 0.0,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """The loss to minimise (a scalar) and the unweighted squared error of each item `[batch]`.

    latents, noise: `[batch, latent_frames, latent_dim]`; condition: `[batch, frames, condition_dim]`; lengths: real
    latent frames, padding counts nowhere; t: `[batch]`; min_snr: gamma of the min-SNR weighting, None for none;
    si_snr: weight of minus the SI-SNR (dB) of the clean latents that the velocity stands for; a term of the paper's
    first version only (its equations 13-16, known second hand: docs/parameters.md, stage 4), hence 0; first: numbers of a
    latent before this one do not count.
    The mean is over the real latent frames of all processes.
    """
    noisy = add_noise(latents, noise, t, objective)
    v = model(noisy, t, condition, lengths)
    each = masked_mean_square((v - velocity(latents, noise, t, objective))[..., first:], lengths)
    weighted = each if min_snr is None else each * min_snr_weight(t, min_snr, objective)
    if si_snr:
        weighted = weighted - si_snr * signal_to_noise(
            clean(noisy, v, t, objective)[..., first:], latents[..., first:], lengths
        )
    # Every real latent frame has the same weight, so that an item of mostly padding does not dominate.
    frames = torch.full_like(each, latents.shape[1]) if lengths is None else lengths.to(each.dtype)
    return (weighted * frames).sum() / mean_divisor(frames.sum()), each.detach()
