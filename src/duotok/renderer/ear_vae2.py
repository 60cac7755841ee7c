"""The ear-VAE2: stereo sound to 25 latents of 128 numbers a second and back, by convolutions over its spectrum (arXiv 2608.19843).

Both channels go as complex spectra (20 ms windows, 100 a second) through the same two-dimensional convolutions, are joined, and
what is left of the frequency axis becomes channels of a latent. The decoder goes the same way back; a refiner then corrects
phases below 1.5 kHz, magnitudes above 4 kHz, and both in between. Modules are named as the published ones, weight norm folded
into the weights (`ear_vae2_state.py`). Latents are the mean of the posterior, as in `ear_vae.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.config import Config
from duotok.renderer.contract import LatentAutoencoder
from duotok.renderer.ear_vae import MOST_PARAMETERS, Few, SnakeBeta, Width
from duotok.renderer.render import decode_blocks

WINDOW, HOP = 960, 480
"""Samples of the spectrum's window and of its step; the published code has no others."""
BINS = WINDOW // 2
"""Bins of the spectrum, the one at half the rate left out."""
DEEPEST_BINS = BINS // 96
"""Bins behind all strides: the frequency axis of what becomes a latent."""
TIME_STRIDES = 4
"""Spectra of a latent."""
LOW_HZ, HIGH_HZ = 1500, 4000
"""Below, the refiner corrects phases alone; above, magnitudes alone."""

Stride = tuple[int, int]
STREAM: tuple[tuple[int, int, Stride], ...] = (
    (1, 2, (1, 2)), (2, 2, (1, 2)), (2, 4, (1, 3)), (4, 4, (1, 2)), (4, 4, (1, 2)), (4, 8, (2, 2)), (8, 8, (2, 1)),
)  # fmt: skip
"""Blocks of the encoder: channels in and out as multiples of C0, strides in time and frequency. The decoder has them in reverse."""


class RefinerConfig(Config):
    """`refiner` of the published JSON."""

    type: Literal["banded"] = "banded"
    dim: Width = 256
    intermediate_dim: int = Field(default=768, gt=0, le=16_384)
    num_layers: Few = 6
    layer_norm_eps: float = Field(default=1e-6, gt=0, lt=1)


class PublishedConfig2(Config):
    """`model.gen.config` of the published JSON; defaults are those of the published code. Other options are refused."""

    C0: Width = 32
    C0_encoder: Width | None = None
    C0_decoder: Width | None = None
    D: Width = 128
    use_vae: Literal[True]
    act_fn: Literal["snake"] = "snake"
    refiner: RefinerConfig | None = None

    @model_validator(mode="after")
    def _check_size(self) -> PublishedConfig2:
        # 3 x 3 convolutions of 16 C0 channels and 8 C0 x 5 channels of the bottleneck have most of the weights
        weights = sum(5_000 * width**2 + 40 * width * (40 * width + self.D) for width in (self.encoder, self.decoder))
        if self.refiner is not None:
            weights += 2 * self.refiner.num_layers * self.refiner.dim * self.refiner.intermediate_dim
        if weights > MOST_PARAMETERS:
            raise ValueError(f"about {weights:.3g} weights, over the {MOST_PARAMETERS:.0g} that are read here")
        return self

    @property
    def encoder(self) -> int:
        """Base width of the encoder."""
        return self.C0_encoder or self.C0

    @property
    def decoder(self) -> int:
        """Base width of the decoder."""
        return self.C0_decoder or 2 * self.C0


class EarVAE2Config(Config):
    """An ear-VAE2 as an autoencoder of the renderer. Its rates are fixed: 48 kHz, 1920 samples a latent."""

    kind: Literal["ear-vae2"]
    model: PublishedConfig2
    licence: str = Field(default="Apache-2.0", description="of the weights")
    source: str = Field(default="", description="where they are from, with the start of their sha256")

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def latent_dim(self) -> int:
        return self.model.D

    @property
    def hop(self) -> int:
        """Samples of a latent."""
        return TIME_STRIDES * HOP

    @property
    def latents_per_frame(self) -> int:
        return FRAME_SAMPLES // self.hop

    @property
    def misfit(self) -> str:
        """Why the renderer cannot use it: never."""
        return ""


class BinSnake(nn.Module):
    """x + sin^2(e^alpha x) / e^beta, both learned for each frequency bin: `[batch, channels, frames, bins]`."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(bins))
        self.beta = nn.Parameter(torch.zeros(bins))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, 1.0 / (self.beta.exp() + 1e-9), torch.sin(x * self.alpha.exp()).square())


def _kernel(stride: Stride) -> tuple[int, int]:
    return max(3, 2 * stride[0]), max(3, 2 * stride[1])


class EncoderBlock(nn.Module):
    """Snake, 3 x 3 convolution, Snake, strided convolution; beside it the pooled input: `[batch, channels, frames, bins]`."""

    def __init__(self, inside: int, outside: int, stride: Stride, bins: int) -> None:
        super().__init__()
        time, frequency = _kernel(stride)
        self.stride = stride
        self.act = BinSnake(bins)
        self.conv1 = nn.Conv2d(inside, inside, 3, padding=1)
        padding = ((time - stride[0]) // 2, (frequency - 1) // 2)
        self.conv2 = nn.Conv2d(inside, outside, (time, frequency), stride, padding)
        self.projection = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.projection(F.avg_pool2d(x, self.stride, self.stride))
        out: Tensor = beside + self.conv2(self.act(self.conv1(self.act(x))))
        return out


class DecoderBlock(nn.Module):
    """Snake, 3 x 3 convolution, Snake, transposed convolution; beside it the repeated input."""

    def __init__(self, inside: int, outside: int, stride: Stride, bins: int) -> None:
        super().__init__()
        kernel = _kernel(stride)
        self.stride = stride
        self.act = BinSnake(bins)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        padding = ((kernel[0] - stride[0]) // 2, (kernel[1] - stride[1]) // 2)
        self.transposed_conv = nn.ConvTranspose2d(outside, outside, kernel, stride, padding)
        self.projection = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.transposed_conv(self.act(self.conv1(self.act(x))))
        # Projected before it is repeated, which is the same and takes a fraction of the memory.
        beside = self.projection(x)
        for axis, times in zip((2, 3), self.stride, strict=True):
            beside = beside.repeat_interleave(times, axis) if times > 1 else beside
        # Kernels of six bins at stride three give one bin too many.
        out: Tensor = beside + y[:, :, : beside.shape[2], : beside.shape[3]]
        return out


class Bottleneck(nn.Module):
    """Two pointwise convolutions with Snakes, residual: `[batch, channels, latent_frames]`."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        middle = max(inside, outside)
        self.act, self.act2 = SnakeBeta(inside), SnakeBeta(middle)
        self.conv1, self.conv2 = nn.Conv1d(inside, middle, 1), nn.Conv1d(middle, outside, 1)
        self.shortcut: nn.Module = nn.Identity() if inside == outside else nn.Conv1d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.conv2(self.act2(self.conv1(self.act(x))))
        return out


class Encoder(nn.Module):
    """Spectra of both channels, `[batch, 2, frames, bins]` each (real and imaginary part), to `[batch, 2 latent_dim, latent_frames]`."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.input_conv = nn.Conv2d(2, width, 7, padding=3)
        blocks, bins = [], BINS
        for inside, outside, stride in STREAM:
            blocks.append(EncoderBlock(inside * width, outside * width, stride, bins))
            bins //= stride[1]
        self.encoder_stream = nn.ModuleList(blocks)
        self.post_concat_block = EncoderBlock(16 * width, 8 * width, (1, 1), bins)
        self.bottleneck_block = Bottleneck(8 * width * bins, 2 * latent_dim)

    def forward(self, spectra: tuple[Tensor, Tensor]) -> Tensor:
        # One channel after the other, so that the widest layers hold one of them at a time.
        x = self.post_concat_block(torch.cat([self._streamed(spectrum) for spectrum in spectra], dim=1))
        latents: Tensor = self.bottleneck_block(x.permute(0, 1, 3, 2).flatten(1, 2))
        return latents

    def _streamed(self, x: Tensor) -> Tensor:
        x = self.input_conv(x)
        for block in self.encoder_stream:
            x = block(x)
        return x


class Decoder(nn.Module):
    """`[batch, latent_dim, latent_frames]` to the spectra of both channels, `[batch, 2, frames, bins]` each."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.width = width
        self.bottleneck_block = Bottleneck(latent_dim, 8 * width * DEEPEST_BINS)
        self.pre_split_block = DecoderBlock(8 * width, 16 * width, (1, 1), DEEPEST_BINS)
        blocks, bins = [], DEEPEST_BINS
        for outside, inside, stride in STREAM[::-1]:
            blocks.append(DecoderBlock(inside * width, outside * width, stride, bins))
            bins *= stride[1]
        self.decoder_stream = nn.ModuleList(blocks)
        self.output_conv = nn.Conv2d(width, 2, 7, padding=3)

    def forward(self, latents: Tensor) -> Iterator[Tensor]:
        """Left, then right, each made when it is asked for."""
        x = self.bottleneck_block(latents).unflatten(1, (8 * self.width, DEEPEST_BINS)).permute(0, 1, 3, 2)
        return (self._streamed(half) for half in self.pre_split_block(x).chunk(2, dim=1))

    def _streamed(self, x: Tensor) -> Tensor:
        for block in self.decoder_stream:
            x = block(x)
        spectrum: Tensor = self.output_conv(x)
        return spectrum


class RefinerBlock(nn.Module):
    """ConvNeXt over spectra: `[batch, dim, frames]`."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).transpose(1, 2))
        out: Tensor = x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).transpose(1, 2)
        return out


class Refiner(nn.Module):
    """Complex spectrum `[batch, bins, frames]` to one corrected by bands, with the bin at half the rate: `[batch, bins + 1, frames]`."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.low, self.high = (round(hz * WINDOW / SAMPLE_RATE) for hz in (LOW_HZ, HIGH_HZ))
        self.sizes = [self.low, self.high - self.low, self.high - self.low, BINS - self.high, 1, 1]
        self.embed = nn.Conv1d(2 * BINS, config.dim, 7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.convnext = nn.ModuleList(
            RefinerBlock(config.dim, config.intermediate_dim) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.out = nn.Linear(config.dim, sum(self.sizes))

    def forward(self, spectrum: Tensor) -> Tensor:
        h = self.norm(self.embed(torch.cat([spectrum.real, spectrum.imag], dim=1)).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            h = block(h)
        parts = self.out(self.final_norm(h.transpose(1, 2))).transpose(1, 2).split(self.sizes, dim=1)
        low_phase, mid_magnitude, mid_phase, high_magnitude, top_real, top_imaginary = parts
        no_phase, no_magnitude = torch.zeros_like(high_magnitude), torch.zeros_like(low_phase)
        phase = torch.cat([low_phase, mid_phase, no_phase], dim=1)
        more = torch.cat([mid_magnitude, high_magnitude], dim=1)
        size = spectrum.abs()
        size = torch.cat([size[:, : self.low] + no_magnitude, (size[:, self.low :] + more).clamp_min(1e-8)], dim=1)
        refined = torch.polar(size, spectrum.angle() + phase)
        return torch.cat([refined, torch.complex(top_real, top_imaginary)], dim=1)


def encoder_field() -> int:
    """Latent frames on each side of one whose samples it can depend on, followed back through the layers."""
    low, high = -2, 2  # the block behind the join: two kernels of three
    for _, _, (time, _) in STREAM[::-1]:
        kernel = max(3, 2 * time)
        padding = (kernel - time) // 2
        low, high = time * low - padding - 1, time * high - padding + kernel - 1 + 1
    low, high, latent = HOP * (low - 3) - HOP, HOP * (high + 3) + HOP - 1, TIME_STRIDES * HOP
    return max(-(low // latent), high // latent)


def decoder_field(refiner_layers: int | None) -> int:
    """Latent frames on each side of one that its samples can depend on. refiner_layers: None without a refiner."""
    reach = 3 + (0 if refiner_layers is None else 3 * (1 + refiner_layers))
    low, high = -reach, TIME_STRIDES + reach  # a sample is in two windows, so the last ones in the next latent's first
    for _, _, (time, _) in STREAM:  # the encoder's order: the decoder's last block first
        kernel = max(3, 2 * time)
        padding = (kernel - time) // 2
        low, high = -((kernel - 1 - padding - low) // time) - 1, (high + padding) // time + 1
    return max(-(low - 2), high + 2)


class EarVAE2(LatentAutoencoder):
    """The published network. `mean`, `std` `[latent_dim]` bring its latents to unit variance; 0 and 1 until they are measured."""

    config: EarVAE2Config
    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(self, config: EarVAE2Config) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.encoder = Encoder(model.encoder, model.D)
        self.decoder = Decoder(model.decoder, model.D)
        self.refiner = None if model.refiner is None else Refiner(model.refiner)
        self.register_buffer("mean", torch.zeros(model.D))
        self.register_buffer("std", torch.ones(model.D))
        # On the CPU even where the rest is built without memory: no checkpoint brings it.
        self.register_buffer("window", torch.hann_window(WINDOW, device="cpu"), persistent=False)

    @property
    def channels(self) -> int:
        return 2

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def receptive_field(self) -> int:
        refiner = self.config.model.refiner
        return decoder_field(None if refiner is None else refiner.num_layers)

    @property
    def encoder_field(self) -> int:
        return encoder_field()

    def spectrum(self, audio: Tensor) -> Tensor:
        """`[batch, samples]` (a multiple of 480) to `[batch, 2, samples / 480, bins]`; spectrum t is centred on sample 480 t."""
        frames = F.pad(audio, (HOP, 0)).unfold(-1, WINDOW, HOP) * self.window
        bins = torch.fft.rfft(frames)[..., :BINS]
        return torch.stack([bins.real, bins.imag], dim=1)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """The inverse: complex `[batch, bins + 1, frames]` to `[batch, 480 frames]`, by overlap-add.

        The last 10 ms have one window alone. The published code divides there by that window, which ends at 0, and so makes a
        click of the smallest error; here they fade out.
        """
        pieces = (torch.fft.irfft(spectrum.transpose(1, 2), n=WINDOW) * self.window).unflatten(-1, (2, HOP))
        total: Tensor = pieces[:, :, 1] + F.pad(pieces[:, 1:, 0], (0, 0, 0, 1))
        squares = self.window.square().reshape(2, HOP).sum(0)
        sound: Tensor = (total / squares).flatten(1)
        return sound

    def raw_latents(self, audio: Tensor) -> Tensor:
        """`[batch, channels, samples]` to the posterior's mean `[batch, ceil(samples / 1920), latent_dim]`, not standardised.

        Sound is padded to a whole latent with zeros; one channel is heard as two equal ones.
        """
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop)).expand(-1, self.channels, -1)
        mean: Tensor = self.encoder((self.spectrum(audio[:, 0]), self.spectrum(audio[:, 1]))).chunk(2, dim=1)[0]
        return mean.transpose(1, 2)

    def encode(self, audio: Tensor) -> Tensor:
        return (self.raw_latents(audio) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        raw = (latents * self.std + self.mean).transpose(1, 2)
        return torch.stack([self._sound(spectrum) for spectrum in self.decoder(raw)], dim=1)

    def _sound(self, parts: Tensor) -> Tensor:
        """Of one channel's real and imaginary parts `[batch, 2, frames, bins]`."""
        spectrum = torch.complex(parts[:, 0], parts[:, 1]).transpose(1, 2)
        return self.synthesise(F.pad(spectrum, (0, 0, 0, 1)) if self.refiner is None else self.refiner(spectrum))

    @torch.no_grad()
    def decode_windows(self, latents: Tensor, block: int = 100) -> Iterator[Tensor]:
        """Sound `[2, samples]` of latents `[frames, latent_dim]` in blocks, equal to `decode` of all of them."""
        return decode_blocks(self, [latents], block)
