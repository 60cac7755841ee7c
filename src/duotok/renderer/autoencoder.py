"""The small spectral autoencoder: 48 kHz sound to 50 Hz x 64 latents and back by an inverse STFT.

It stands where the paper has the ear-VAE (50 Hz, 64-d, 48 kHz). The encoder sees magnitudes only, so that a latent frame
holds what a renderer can tell from tokens; the decoder predicts magnitude and phase of an STFT (100 Hz) from ConvNeXt blocks,
and may let a few Griffin-Lim iterations fit the phases to each other.
Everything is convolutional: the receptive field is finite, so decoding in windows with context equals decoding whole.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.audio.features import POWER_FLOOR, PowerSpectrum, mel_filters
from duotok.clock import FRAME_SAMPLES, LATENT_SAMPLES, SAMPLE_RATE
from duotok.config import Config
from duotok.renderer.basses import DECODER_BLOCKS, ENCODER_BLOCKS, WIDTH, BassDecoder, BassEncoder
from duotok.renderer.contract import LatentAutoencoder
from duotok.renderer.dit import depthwise
from duotok.renderer.griffin_lim import phases_that_fit, without_faint

SPECTRAL_SAMPLES = LATENT_SAMPLES // 2
"""Samples of a spectral frame: 100 a second, two to a latent."""
Blocks = Annotated[int, Field(ge=0)]


class AutoencoderConfig(Config):
    """Widths and depths; rates are fixed (48 kHz, latents at 50 Hz, spectra at 100 Hz). The defaults are the small model."""

    kind: Literal["spectral"] = "spectral"
    latent_dim: int = Field(default=64, gt=0)
    low_bands: int = Field(
        default=0,
        ge=0,
        description="bands up to 3 kHz that the encoder sees through a window of 85 ms besides; 0 = none",
    )
    phase_bins: int = Field(
        default=0,
        ge=0,
        le=961,
        description="bins (25 Hz each) whose real and imaginary parts the encoder sees besides; 0 = magnitudes",
    )
    bass_latents: int = Field(
        default=0, ge=0, description="of latent_dim, the last ones: they tell bass_bins alone; 0 = none"
    )
    bass_bins: int = Field(
        default=32, gt=0, description="lowest bins of the inverse STFT (48,000 / n_fft Hz each) that bass_latents tell"
    )
    encoder_width: int = Field(default=192, gt=0)
    encoder_blocks: tuple[Blocks, Blocks] = Field(default=(3, 2), description="at 100 Hz, at 50 Hz")
    decoder_width: int = Field(default=256, gt=0)
    decoder_blocks: tuple[Blocks, Blocks] = Field(default=(1, 7), description="at 50 Hz, at 100 Hz")
    expansion: int = Field(default=3, gt=0)
    kernel: int = Field(default=7, gt=0, description="frames of the depthwise convolutions; odd")
    activation: Literal["gelu", "snake"] = Field(
        default="gelu", description="snake: x + sin^2(a x) / a with a learned a (arXiv 2006.08195)"
    )
    output: Literal["angle", "vector", "magnitude"] = Field(
        default="angle",
        description="phase as an angle, as the direction of a vector of two outputs, or none: then griffin_lim fits them to the magnitudes "
        "from a beginning that is the same for every sound",
    )
    n_fft: int = Field(default=1920, gt=0, description="window of the inverse STFT; a multiple of hop")
    hop: int = Field(default=SPECTRAL_SAMPLES, description="samples of a spectral frame; 480, and no other")
    griffin_lim: int = Field(
        default=0,
        ge=0,
        description="iterations that fit the phases to the magnitudes at the end; 0 = phases as predicted",
    )

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        if self.hop != SPECTRAL_SAMPLES:
            raise ValueError(
                f"hop {self.hop} must be {SPECTRAL_SAMPLES} (a latent has two spectral frames); leave it out"
            )
        if self.n_fft % self.hop or self.n_fft < 2 * self.hop or (self.n_fft - self.hop) % 2:
            raise ValueError(
                f"n_fft {self.n_fft} must be an even number of samples over, and a multiple of, hop {self.hop}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        if self.output == "magnitude" and not self.griffin_lim:
            raise ValueError("output magnitude has no phases; set griffin_lim, or output vector")
        if self.bass_latents >= self.latent_dim:
            raise ValueError(f"bass_latents {self.bass_latents} must be fewer than latent_dim {self.latent_dim}")
        if self.bass_latents and self.bass_bins > self.n_fft // 2 + 1:
            raise ValueError(f"bass_bins {self.bass_bins}: n_fft {self.n_fft} has {self.n_fft // 2 + 1} bins")
        return self

    @property
    def latents_per_frame(self) -> int:
        """Latent frames of a token frame."""
        return FRAME_SAMPLES // LATENT_SAMPLES


OUTPUTS = {"angle": 2, "vector": 3, "magnitude": 1}
"""Numbers that the decoder makes of each bin."""


def first_phases(bins: int) -> Tensor:
    """Phases for fits to begin with, the same in every frame `[bins]`: quadratic, so that the energy of a frame is spread over it."""
    turns = 2.0 * torch.arange(bins, dtype=torch.float64).square() / bins
    return (2 * math.pi * turns.frac()).float()


class Snake(nn.Module):
    """x + sin^2(a x) / a, a learned for each channel: periodic, so that harmonics come easily."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        rate = self.log_rate.exp()
        return x + torch.sin(rate * x).square() / rate


class ConvNeXt(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, residual: `[batch, frames, width]`."""

    def __init__(self, width: int, expansion: int, kernel: int, activation: Literal["gelu", "snake"] = "gelu") -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.activation: nn.Module = nn.GELU() if activation == "gelu" else Snake(expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        assert self.depthwise.bias is not None
        y = depthwise(x, self.depthwise.weight.unsqueeze(2), self.depthwise.bias)
        out: Tensor = x + self.scale * self.down(self.activation(self.up(self.norm(y))))
        return out


class SpectralFeatures(nn.Module):
    """ln mel power at 100 Hz: `[batch, samples]` to `[batch, frames, width]`.

    With `phase_bins` the phases of the low partials as well: from magnitudes alone a steady tone is the same frame again and
    again, and a decoder that does the same at every frame makes the same 20 ms of it again and again (docs/experiments/pitch-and-phases.md).
    43 ms with 160 bands, twice 11 ms with 48, and if asked for 85 ms with `low_bands` bands up to 3 kHz, where 43 ms do
    not tell the harmonics of a low note apart.
    """

    long_filters: Tensor
    short_filters: Tensor
    low_filters: Tensor
    phase_window: Tensor

    def __init__(self, low_bands: int = 0, phase_bins: int = 0) -> None:
        super().__init__()
        self.low_bands, self.phase_bins = low_bands, phase_bins
        self.width = 160 + 2 * 48 + low_bands + 2 * phase_bins
        if phase_bins:
            self.register_buffer("phase_window", torch.hann_window(1920), persistent=False)
        self.long, self.short = PowerSpectrum(2048, 480), PowerSpectrum(512, 240)
        self.register_buffer("long_filters", mel_filters(SAMPLE_RATE, 2048, 160), persistent=False)
        self.register_buffer("short_filters", mel_filters(SAMPLE_RATE, 512, 48), persistent=False)
        if low_bands:
            self.low = PowerSpectrum(4096, 480)
            self.register_buffer(
                "low_filters", mel_filters(SAMPLE_RATE, 4096, low_bands, f_max=3000.0), persistent=False
            )

    def forward(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.float()
            long = self.long(audio) @ self.long_filters
            short = self.short(audio) @ self.short_filters
            batch, frames, _ = long.shape
            parts = [long, short.reshape(batch, frames, -1)]
            if self.low_bands:
                parts.append(self.low(audio) @ self.low_filters)
            features = (torch.cat(parts, dim=-1).clamp_min(POWER_FLOOR).log() + 2.0) / 4.0
            return torch.cat([features, *self._phases(audio)], dim=-1) if self.phase_bins else features

    def _phases(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of the lowest bins, loud ones compressed: `[batch, frames, phase_bins]` each."""
        frames = F.pad(audio, (720, 720)).unfold(-1, 1920, 480) * self.phase_window
        bins = torch.fft.rfft(frames)[..., : self.phase_bins]
        bins = 0.5 * bins * (bins.abs() + 1e-4).pow(-0.7)
        return bins.real, bins.imag


class Autoencoder(LatentAutoencoder):
    """48 kHz mono sound and unit-variance latents."""

    config: AutoencoderConfig
    mean: Tensor
    std: Tensor
    window: Tensor
    first_phases: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        enc, dec, kernel = config.encoder_width, config.decoder_width, config.kernel

        def blocks(count: int, width: int) -> list[nn.Module]:
            return [ConvNeXt(width, config.expansion, kernel, config.activation) for _ in range(count)]

        self.features = SpectralFeatures(config.low_bands, config.phase_bins)
        self.enter = nn.Linear(self.features.width, enc)
        self.encode_fine = nn.Sequential(*blocks(config.encoder_blocks[0], enc))
        self.pool = nn.Linear(2 * enc, enc)
        self.encode_coarse = nn.Sequential(*blocks(config.encoder_blocks[1], enc), nn.LayerNorm(enc))
        self.main_latents = config.latent_dim - config.bass_latents
        self.to_latent = nn.Linear(enc, self.main_latents)
        self.register_buffer("mean", torch.zeros(self.main_latents))
        self.register_buffer("std", torch.ones(self.main_latents))
        self.from_latent = nn.Conv1d(self.main_latents, dec, 3, padding=1)
        self.decode_coarse = nn.Sequential(*blocks(config.decoder_blocks[0], dec))
        self.unpool = nn.Linear(dec, 2 * dec)
        self.decode_fine = nn.Sequential(*blocks(config.decoder_blocks[1], dec), nn.LayerNorm(dec))
        self.bins = config.n_fft // 2 + 1
        self.to_spectrum = nn.Linear(dec, OUTPUTS[config.output] * self.bins)
        self.register_buffer("first_phases", first_phases(self.bins), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.bass_encoder: BassEncoder | None = None
        self.bass_decoder: BassDecoder | None = None
        if config.bass_latents:
            self.bass_encoder = BassEncoder(config.bass_bins, config.bass_latents, blocks(sum(ENCODER_BLOCKS), WIDTH))
            self.bass_decoder = BassDecoder(config.bass_bins, config.latent_dim, blocks(sum(DECODER_BLOCKS), WIDTH))

    @property
    def channels(self) -> int:
        return 1

    @property
    def hop(self) -> int:
        return LATENT_SAMPLES

    @property
    def encoder_field(self) -> int:
        """Latent frames on each side whose sound a latent can depend on."""
        blocks = self.config.encoder_blocks
        longest = 4096 if self.config.low_bands else 2048  # samples of the longest window of SpectralFeatures
        if self.config.bass_latents:
            blocks = (max(blocks[0], ENCODER_BLOCKS[0]), max(blocks[1], ENCODER_BLOCKS[1]))
            longest = max(longest, self.config.n_fft)
        fine, coarse = (self.config.kernel // 2 * count for count in blocks)
        return coarse + -(-fine // 2) + -(-longest // (2 * LATENT_SAMPLES)) + 1

    @property
    def receptive_field(self) -> int:
        """Latent frames on each side that a decoded sample can depend on."""
        reach = self.config.kernel // 2
        blocks = self.config.decoder_blocks
        if self.config.bass_latents:
            blocks = (max(blocks[0], DECODER_BLOCKS[0]), max(blocks[1], DECODER_BLOCKS[1]))
        coarse = 1 + blocks[0] * reach
        overlap = self.config.n_fft // self.config.hop
        fine = blocks[1] * reach + overlap + self.config.griffin_lim * (overlap - 1)
        return coarse + -(-fine // 2) + 1

    def raw_latents(self, audio: Tensor) -> Tensor:
        """`[batch, 1, samples]` (a multiple of 960) to latents before standardisation `[batch, latent_frames, latent_dim]`."""
        x = self.encode_fine(self.enter(self.features(audio[:, 0])))
        x = self.pool(x.reshape(x.shape[0], x.shape[1] // 2, -1))
        latents: Tensor = self.to_latent(self.encode_coarse(x))
        if self.bass_encoder is None:
            return latents
        with torch.autocast(audio.device.type, enabled=False):
            magnitude = self.analyse(audio[:, 0].float()).abs()
        return torch.cat([latents, self.bass_encoder(magnitude)], dim=-1)

    def standardised(self, raw: Tensor) -> Tensor:
        """`raw_latents` with the mean and deviation of training taken off, in its shape."""
        parts = [self] if self.bass_encoder is None else [self, self.bass_encoder]
        mean, std = (torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std"))
        return (raw - mean) / std

    @torch.no_grad()
    def follow(self, mean: Tensor, std: Tensor, rate: float) -> None:
        """Move the statistics that `standardised` takes off towards `mean` and `std` `[latent_dim]`, those of frozen parts apart."""
        parts: list[tuple[Autoencoder | BassEncoder, nn.Linear, slice]] = [
            (self, self.to_latent, slice(0, self.main_latents))
        ]
        if self.bass_encoder is not None:
            parts.append((self.bass_encoder, self.bass_encoder.leave, slice(self.main_latents, None)))
        for part, last, mine in parts:
            if last.weight.requires_grad:
                part.mean.lerp_(mean[mine], rate)
                part.std.lerp_(std[mine].clamp_min(1e-3), rate)

    def encode(self, audio: Tensor) -> Tensor:
        """`[batch, 1, samples]` to unit-variance latents `[batch, ceil(samples / 960), latent_dim]`."""
        audio = F.pad(audio, (0, -audio.shape[-1] % LATENT_SAMPLES))
        return self.standardised(self.raw_latents(audio))

    def encoder(self) -> list[nn.Module]:
        """The parts that make latents; the others turn them into sound."""
        parts = [self.features, self.enter, self.encode_fine, self.pool, self.encode_coarse, self.to_latent]
        return parts if self.bass_encoder is None else [*parts, self.bass_encoder]

    def basses(self) -> list[nn.Module]:
        """The parts that bass_latents bring along."""
        return [part for part in (self.bass_encoder, self.bass_decoder) if part is not None]

    def spectrum(self, latents: Tensor) -> Tensor:
        """Unit-variance latents to the complex STFT `[batch, spectral_frames, bins]`."""
        x = self.from_latent(latents[..., : self.main_latents].transpose(1, 2)).transpose(1, 2)
        x = self.unpool(self.decode_coarse(x))
        x = x.reshape(x.shape[0], 2 * latents.shape[1], -1)
        x = self.decode_fine(x)
        with torch.autocast(x.device.type, enabled=False):  # a phase in half precision is heard
            parts = self.to_spectrum(x.float()).chunk(OUTPUTS[self.config.output], dim=-1)
        level = parts[0]
        if self.bass_decoder is not None:
            level = level + F.pad(self.bass_decoder(latents), (0, self.bins - self.bass_decoder.bins))
        magnitude = level.clamp(max=8.0).exp()
        if self.config.output == "magnitude":
            return torch.polar(magnitude, self.first_phases.expand_as(magnitude))
        if self.config.output == "angle":
            return torch.polar(magnitude, parts[1])
        size = torch.rsqrt(parts[1].square() + parts[2].square() + 1e-6)
        return torch.complex(magnitude * parts[1] * size, magnitude * parts[2] * size)

    @torch.no_grad()
    def without_phases(self) -> Autoencoder:
        """The same, with `output: magnitude`: where phases are fitted, those that are predicted are a beginning like any other."""
        silent = Autoencoder(self.config.model_copy(update={"output": "magnitude"}))
        state = self.state_dict()
        for name in ("to_spectrum.weight", "to_spectrum.bias"):
            state[name] = state[name][: self.bins]
        silent.load_state_dict(state)
        return silent

    def decode(self, latents: Tensor) -> Tensor:
        """Unit-variance latents `[batch, latent_frames, latent_dim]` to sound `[batch, 1, latent_frames * 960]`."""
        return self.sound(self.spectrum(latents)).unsqueeze(1)

    def sound(self, spectrum: Tensor, iterations: int | None = None) -> Tensor:
        """The sound of a spectrum, its phases fitted to each other: complex `[batch, frames, bins]` to `[batch, samples]`.

        iterations: other than `griffin_lim` of the config.
        """
        count = self.config.griffin_lim if iterations is None else iterations
        if not count:
            return self.synthesise(spectrum)
        heard = without_faint(spectrum)
        return self.synthesise(phases_that_fit(heard, count, lambda x: self.analyse(self.synthesise(x))))

    def analyse(self, audio: Tensor) -> Tensor:
        """STFT in the frames of `synthesise`, silence around: `[batch, samples]` (a multiple of hop) to complex `[batch, frames, bins]`."""
        margin = (self.config.n_fft - self.config.hop) // 2
        frames = F.pad(audio, (margin, margin)).unfold(-1, self.config.n_fft, self.config.hop)
        spectrum: Tensor = torch.fft.rfft(frames * self.window)
        return spectrum

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT by overlap-add, frame t centred on sample 480 (t + 0.5): `[batch, frames, bins]` to `[batch, samples]`."""
        n_fft, hop = self.config.n_fft, self.config.hop
        frames = torch.fft.irfft(spectrum, n=n_fft) * self.window
        batch, count, _ = frames.shape
        # Overlap-add as sums of shifted hop-sized pieces: n_fft is a multiple of hop.
        pieces = frames.reshape(batch, count, n_fft // hop, hop)
        total = frames.new_zeros(batch, count + n_fft // hop - 1, hop)
        for k in range(n_fft // hop):
            total = total + F.pad(pieces[:, :, k], (0, 0, k, n_fft // hop - 1 - k))
        squares = self.window.square().reshape(n_fft // hop, hop).sum(0)
        audio: Tensor = (total / squares).reshape(batch, -1)
        margin = (n_fft - hop) // 2
        return audio[:, margin : margin + count * hop]
