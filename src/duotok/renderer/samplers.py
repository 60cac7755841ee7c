"""From noise to latents in a few steps. All samplers work on half the log signal-to-noise ratio l = ln(alpha / sigma).

Written with (alpha, sigma) instead of k-diffusion's sigma / alpha, the updates stay finite at t = 1, where alpha is 0
and the first interval in l is infinite: the terms of higher order vanish there by themselves. So sampling starts from
pure noise, and one step returns the model's posterior mean. Times run evenly from 1 to 0.

ddim: arXiv 2010.02502 (eta 0). dpmpp-2m: arXiv 2211.01095, algorithm 2. dpmpp-3m-sde: k-diffusion's
`sample_dpmpp_3m_sde` (eta 1), the default of stable-audio-tools.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from duotok.errors import ConfigError
from duotok.renderer.diffusion import Objective, VelocityModel, alpha_sigma, clean

StepNoise = Callable[[int], Tensor]


@dataclass(frozen=True)
class Path:
    """The times of a run, `steps + 1` of them from 1 to 0, with alpha, sigma and l at each (float64 on the CPU)."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    half_log_snr: Tensor

    @property
    def steps(self) -> int:
        return len(self.t) - 1


def path(steps: int, objective: Objective = "v") -> Path:
    """Times evenly from 1 to 0. Raises ConfigError when steps < 1."""
    if steps < 1:
        raise ConfigError(f"steps {steps}: sampling needs at least 1")
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    alpha, sigma = alpha_sigma(t, objective)
    return Path(t, alpha, sigma, alpha.log() - sigma.log())


class Sampler(Protocol):
    """`denoise(x, step)` gives x0 at the step's time; `noise(step)` fresh unit noise in the shape of x."""

    def __call__(self, x: Tensor, path: Path, denoise: Callable[[Tensor, int], Tensor], noise: StepNoise) -> Tensor: ...


def _ddim_step(x: Tensor, x0: Tensor, path: Path, i: int) -> Tensor:
    ratio = float(path.sigma[i + 1] / path.sigma[i])
    return ratio * x + float(path.alpha[i + 1] - ratio * path.alpha[i]) * x0


def ddim(x: Tensor, path: Path, denoise: Callable[[Tensor, int], Tensor], noise: StepNoise) -> Tensor:
    """First order, deterministic."""
    for i in range(path.steps):
        x = _ddim_step(x, denoise(x, i), path, i)
    return x


def dpmpp_2m(x: Tensor, path: Path, denoise: Callable[[Tensor, int], Tensor], noise: StepNoise) -> Tensor:
    """Second order, deterministic: extrapolates x0 from the last two evaluations; the last step is of first order."""
    l = path.half_log_snr
    before: Tensor | None = None
    for i in range(path.steps):
        x0 = denoise(x, i)
        guess = x0
        if before is not None and i + 1 < path.steps:
            h, h_before = l[i + 1] - l[i], l[i] - l[i - 1]
            weight = float(0.5 * h / h_before)
            guess = (1 + weight) * x0 - weight * before
        x = _ddim_step(x, guess, path, i)
        before = x0
    return x


def dpmpp_3m_sde(x: Tensor, path: Path, denoise: Callable[[Tensor, int], Tensor], noise: StepNoise) -> Tensor:
    """Third order, stochastic (eta 1): fresh noise at every step but the last."""
    l = path.half_log_snr
    past: list[Tensor] = []  # x0 of the steps before, newest first
    for i in range(path.steps):
        x0 = denoise(x, i)
        if i + 1 == path.steps:
            return x0
        h = float(l[i + 1] - l[i])
        alpha, sigma = float(path.alpha[i + 1]), float(path.sigma[i + 1])
        step = torch.tensor(2 * h, dtype=torch.float64)
        phi_1 = float(-torch.expm1(-step))
        x_next = (sigma / float(path.sigma[i])) * float(torch.exp(torch.tensor(-h, dtype=torch.float64))) * x
        x_next = x_next + alpha * phi_1 * x0
        if past:
            phi_2 = 1 - phi_1 / (2 * h)
            r0 = float((l[i] - l[i - 1]) / h)
            d_near = (x0 - past[0]) / r0
            if len(past) > 1:
                r1 = float((l[i - 1] - l[i - 2]) / h)
                d_far = (past[0] - past[1]) / r1
                bend = d_near - d_far
                phi_3 = phi_2 / (2 * h) - 0.5
                x_next = x_next + alpha * (phi_2 * (d_near + bend * (r0 / (r0 + r1))) - phi_3 * (bend / (r0 + r1)))
            else:
                x_next = x_next + alpha * phi_2 * d_near
        x = x_next + sigma * float(phi_1**0.5) * noise(i)
        past = [x0, *past[:1]]
    return x


SamplerName = Literal["ddim", "dpmpp-2m", "dpmpp-3m-sde"]
SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpmpp-2m": dpmpp_2m, "dpmpp-3m-sde": dpmpp_3m_sde}


def sample(
    model: VelocityModel,
    noise: Tensor,
    condition: Tensor,
    steps: int,
    sampler: str = "dpmpp-2m",
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    *,
    lengths: Tensor | None = None,
    objective: Objective = "v",
    step_noise: StepNoise | None = None,
) -> Tensor:
    """Latents `[batch, latent_frames, latent_dim]` from unit `noise` of that shape.

    condition: `[batch, frames, code_dim]`; temperature scales all noise (1 = the model's own distribution, 0 = its mode
    for a Gaussian); generator (or `step_noise(step)`) feeds the stochastic sampler only: the others are functions of
    `noise`. steps = 1 returns the posterior mean. Raises ConfigError for an unknown sampler, steps < 1 or a
    temperature that is negative or not finite.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler '{sampler}': known are {', '.join(SAMPLERS)}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature {temperature}: must be a finite number, 0 or more")
    way = path(steps, objective)

    def denoise(x: Tensor, step: int) -> Tensor:
        t = way.t[step].to(device=x.device, dtype=torch.float32).expand(len(x))
        return clean(x, model(x, t, condition, lengths), t, objective)

    def fresh(step: int) -> Tensor:
        if step_noise is not None:
            return temperature * step_noise(step)
        drawn = torch.randn(noise.shape, generator=generator, dtype=noise.dtype)
        return temperature * drawn.to(noise.device)

    return SAMPLERS[sampler](temperature * noise, way, denoise, fresh)
