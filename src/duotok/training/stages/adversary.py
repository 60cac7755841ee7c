"""Discriminators of the adversarial fine-tuning: complex STFTs at several resolutions, each cut into bands.

After the Descript Audio Codec (arXiv 2306.06546, section 3.3), with fewer channels. Least-squares losses (arXiv 1611.04076)
and feature matching. Both sides learn in one backward pass: the generator's terms go through discriminators whose weights are
held fixed, the discriminators' term through sounds that are cut off from the decoder; two groups of AdamW, with rates,
betas and clipping of their own, are then two optimizers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from duotok.config import Config
from duotok.distributed import total, world
from duotok.training.stage import Beta

Maps = list[list[Tensor]]
"""For each discriminator its feature maps, the verdict last."""


class AdversaryConfig(Config):
    """Discriminators, and the weights of their losses against the reconstruction loss."""

    windows: tuple[int, ...] = Field(
        default=(2048, 1024, 512), description="samples of the STFTs at 48 kHz; hop is a quarter"
    )
    bands: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0), description="edges of the bands as shares of the half rate"
    )
    channels: int = Field(default=16, gt=0)
    lr_scale: float = Field(default=1.0, gt=0, description="the discriminators' learning rate over the decoder's")
    betas: tuple[Beta, Beta] = (0.8, 0.99)
    clip: float = Field(default=10.0, gt=0, description="largest norm of the discriminators' gradients")
    weight: float = Field(default=0.15, ge=0, description="of the adversarial loss, beside a mel distance of weight 1")
    feature_weight: float = Field(default=0.3, ge=0, description="of feature matching")
    warmup: int = Field(
        default=200,
        ge=0,
        description="steps in which the discriminators learn and the decoder does not hear of them yet",
    )

    @model_validator(mode="after")
    def _has_something_to_judge(self) -> AdversaryConfig:
        if not self.windows or min(self.windows) < 4:
            raise ValueError(f"windows {self.windows} must be one or more, of 4 samples at least")
        if len(self.bands) < 2 or self.bands[0] < 0 or self.bands[-1] > 1:
            raise ValueError(f"bands {self.bands} must be two edges or more, from 0 to 1")
        for n_fft in self.windows:
            if any(high <= low for low, high in pairwise(edges(self.bands, n_fft))):
                raise ValueError(f"bands {self.bands} must rise, by one bin at least of a window of {n_fft}")
        return self


def edges(bands: tuple[float, ...], n_fft: int) -> list[int]:
    """The edges of the bands as bins of a window."""
    return [round(edge * (n_fft // 2 + 1)) for edge in bands]


class BandDiscriminator(nn.Module):
    """One STFT: real and imaginary part as a picture, a stack of convolutions for each band."""

    window: Tensor

    def __init__(self, n_fft: int, bands: tuple[float, ...], channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.ranges = list(pairwise(edges(bands, n_fft)))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

        def conv(inside: int, outside: int, kernel: tuple[int, int], stride: int = 1) -> nn.Module:
            padding = (kernel[0] // 2, kernel[1] // 2)
            layer: nn.Module = weight_norm(nn.Conv2d(inside, outside, kernel, (1, stride), padding))
            return layer

        self.stacks = nn.ModuleList(
            nn.ModuleList(
                [conv(2, channels, (3, 9)), *(conv(channels, channels, (3, 9), 2) for _ in range(3)), conv(channels, channels, (3, 3))]
            )
            for _ in self.ranges
        )  # fmt: skip
        self.verdict = conv(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """`audio [batch, samples]` to feature maps `[batch, channels, frames, bins]`, the verdict last."""
        with torch.autocast(audio.device.type, enabled=False):
            x = torch.stft(
                audio.float(), self.n_fft, self.n_fft // 4, window=self.window, center=True, return_complex=True
            )
            # The magnitude is compressed, so that loud bins do not dominate; the phase is kept.
            x = x * (x.abs() + 1e-5).pow(-0.6)
            picture = torch.view_as_real(x).permute(0, 3, 2, 1)
        maps, ends = [], []
        for (low, high), stack in zip(self.ranges, self.stacks, strict=True):
            h = picture[..., low:high]
            for layer in stack:  # type: ignore[attr-defined]
                h = F.leaky_relu(layer(h), 0.1)
                maps.append(h)
            ends.append(h)
        return [*maps, self.verdict(torch.cat(ends, dim=-1))]


class Discriminators(nn.Module):
    """All resolutions: `audio [batch, samples]` to the feature maps of each."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.each = nn.ModuleList(BandDiscriminator(n, config.bands, config.channels) for n in config.windows)

    def forward(self, audio: Tensor) -> Maps:
        return [module(audio) for module in self.each]

    def fixed(self, audio: Tensor) -> Maps:
        """The same with weights that get no gradient; `audio` does."""
        state = {name: value.detach() for name, value in (*self.named_parameters(), *self.named_buffers())}
        maps: Maps = functional_call(self, state, (audio,))
        return maps


def judge(discriminators: Discriminators, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Losses of both sides for decoded and true sound `[batch, samples]`; least squares, 1 = true.

    `adversarial` and `matching` are the decoder's (gradient to `estimate` alone), `discrimination` the discriminators'
    (gradient to them alone). Means over discriminators, maps and items.
    """
    true_maps = discriminators(target)
    detached_maps = discriminators(estimate.detach())
    estimate_maps = discriminators.fixed(estimate)
    count = len(true_maps)
    discrimination = sum(
        (a[-1].float() - 1).square().mean() + b[-1].float().square().mean()
        for a, b in zip(true_maps, detached_maps, strict=True)
    )
    adversarial = sum((maps[-1].float() - 1).square().mean() for maps in estimate_maps)
    pairs = [
        (a.float(), b.detach().float())
        for maps_of_estimate, maps_of_target in zip(estimate_maps, true_maps, strict=True)
        for a, b in zip(maps_of_estimate[:-1], maps_of_target[:-1], strict=True)
    ]
    gaps = torch.stack([(a - b).abs().mean() for a, b in pairs])
    # One scale for the whole batch, over all processes.
    scales = (total(torch.stack([b.abs().mean() for _, b in pairs])) / world()).clamp_min(1e-3)
    return {
        "discrimination": torch.as_tensor(discrimination) / count,
        "adversarial": torch.as_tensor(adversarial) / count,
        "matching": (gaps / scales).mean(),
    }
