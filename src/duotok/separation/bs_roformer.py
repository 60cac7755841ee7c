"""BS-RoFormer: band split, attention along time and along bands in turn, one complex mask a stem.

The architecture of the paper's stage-2 teacher (Lu et al. 2023, arXiv:2309.02612), written so that one config gives
either the published four-stem model (62 bands, a mask value for every bin, separate mask estimators) or a model small
enough for two CPU cores. The differences of the small one, each an option: bins of the wide upper bands share mask values
(`groups`), the hidden layer of the mask estimators is shared by the stems, the input is compressed in magnitude and not
normalised within a band (so that the level of a band is not lost), and the masks are made to sum to one.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config
from duotok.nn.attention import gated_attention
from duotok.nn.feed_forward import normed_feed_forward
from duotok.nn.rope import neighbour_turns, speeds
from duotok.tracks import STEMS


class BSRoFormerConfig(Config):
    """Sizes of a BSRoFormer. The defaults are a small one: 48 kHz stereo, four stems, 0.8M parameters; recipes/mini has its own."""

    sample_rate: int = 48_000
    stems: tuple[str, ...] = STEMS
    channels: int = 2
    n_fft: int = 2880  # 60 ms; three hops, so that the squared Hann windows add up to a constant
    hop: int = 960  # 50 Hz: two mask frames a token frame
    # bins of each band from 0 Hz up: 100 Hz wide below 1 kHz, one band above 13 kHz
    bands: tuple[int, ...] = (6,) * 10 + (12,) * 6 + (24,) * 5 + (48,) * 3 + (96,) * 2 + (192, 661)
    # how many neighbouring bins of a band share one mask value (1 = each its own, as published)
    groups: tuple[int, ...] = (1,) * 16 + (2,) * 5 + (3,) * 3 + (6,) * 2 + (12, 32)
    dim: int = 64
    depth: int = Field(default=4, ge=1)  # each: one block along time, one along bands
    heads: int = Field(default=4, ge=1)
    head_dim: int = 16
    feedforward: int = 192
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    mask_hidden: int = 32
    share_mask_hidden: bool = True
    compression: float = Field(default=0.3, gt=0.0, le=1.0)  # exponent on the magnitudes of the input
    band_norm: bool = False  # RMS norm of a band's input, as published
    sum_to_mix: bool = True  # spread the missing part of the masks evenly over the stems

    @model_validator(mode="after")
    def _consistent(self) -> BSRoFormerConfig:
        if sum(self.bands) != self.n_fft // 2 + 1:
            raise ValueError(f"bands add up to {sum(self.bands)} bins, n_fft {self.n_fft} has {self.n_fft // 2 + 1}")
        if len(self.groups) != len(self.bands) or min(self.groups) < 1:
            raise ValueError("groups must name one size of at least 1 for each band")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even (rotary positions turn pairs)")
        if not 0 < self.hop <= self.n_fft // 2:
            raise ValueError("hop must be at most half of n_fft, or samples would be lost between windows")
        return self

    def mask_values(self) -> tuple[int, ...]:
        """Mask values of each band: its bins divided by its group size, rounded up."""
        return tuple(-(-bins // group) for bins, group in zip(self.bands, self.groups, strict=True))

    @classmethod
    def published(cls) -> BSRoFormerConfig:
        """The usual public four-stem model (44.1 kHz, 384 x 8, 62 bands; docs/parameters.md, stage 2)."""
        bands = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
        return cls(
            sample_rate=44_100,
            stems=("drums", "bass", "other", "vocals"),
            n_fft=2048,
            hop=441,
            bands=bands,
            groups=(1,) * len(bands),
            dim=384,
            depth=8,
            heads=8,
            head_dim=64,
            feedforward=1536,
            dropout=0.1,
            mask_hidden=768,
            share_mask_hidden=False,
            compression=1.0,
            band_norm=True,
            sum_to_mix=False,
        )


def stft(audio: Tensor, window: Tensor, hop: int) -> Tensor:
    """Short-time spectra of `audio [..., samples]` (a multiple of hop) -> complex `[..., samples / hop, bins]`.

    Frame t is centred on sample hop (t + 1/2), so that a whole number of frames covers a whole number of token frames.
    """
    n_fft = window.numel()
    left = (n_fft - hop) // 2
    padded = F.pad(audio, (left, n_fft - hop - left))
    spectra: Tensor = torch.fft.rfft(padded.unfold(-1, n_fft, hop) * window)
    return spectra


def istft(spectra: Tensor, window: Tensor, hop: int) -> Tensor:
    """Inverse of `stft` by windowed overlap-add: complex `[..., frames, bins]` -> `[..., frames * hop]`."""
    n_fft = window.numel()
    frames = spectra.shape[-2]
    pieces = -(-n_fft // hop)
    fill = pieces * hop - n_fft
    weight = F.pad(window * window, (0, fill)).view(pieces, hop)
    blocks = torch.fft.irfft(spectra, n=n_fft) * window
    blocks = F.pad(blocks, (0, fill))
    blocks = blocks.view(*blocks.shape[:-1], pieces, hop)
    total = blocks.new_zeros(*blocks.shape[:-3], frames + pieces - 1, hop)
    norm = window.new_zeros(frames + pieces - 1, hop)
    for piece in range(pieces):
        span = slice(piece, piece + frames)
        total[..., span, :] += blocks[..., piece, :]
        norm[span] += weight[piece]
    left = (n_fft - hop) // 2
    flat: Tensor = total.flatten(-2)[..., left : left + frames * hop]
    return flat / norm.flatten()[left : left + frames * hop].clamp_min(1e-8)


class RMSNorm(nn.Module):
    """x / rms(x) * gamma over the last axis; unlike that of `published.py`, which adds nothing under the root."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        # written out: half the time of F.rms_norm on a CPU
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.gamma


class Block(nn.Module):
    """Pre-norm attention (rotary, one sigmoid gate a head) and feed-forward over `[batch, length, dim]`."""

    def __init__(self, config: BSRoFormerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.norm = RMSNorm(config.dim)
        self.to_qkv = nn.Linear(config.dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(config.dim, config.heads)
        self.to_out = nn.Linear(inner, config.dim, bias=False)
        self.feedforward = normed_feed_forward(RMSNorm(config.dim), config.dim, config.feedforward, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        normed = self.norm(x)
        attended = gated_attention(self.to_qkv(normed), self.to_gates(normed), turns)
        x = x + self.dropout(self.to_out(attended))
        output: Tensor = x + self.feedforward(x)
        return output


class BandSplit(nn.Module):
    """Spectra to one vector a band: complex `[batch, channels, frames, bins]` -> `[batch, frames, bands, dim]`.

    A band whose bins have mask values of their own gives real and imaginary parts; a grouped band gives, for each
    group, the magnitudes of the channels and of their sum and difference (phase adds little there and costs weights).
    """

    def __init__(self, config: BSRoFormerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [2 * config.channels * values for values in config.mask_values()]
        self.norms = nn.ModuleList(RMSNorm(size) if config.band_norm else nn.Identity() for size in sizes)
        self.linears = nn.ModuleList(nn.Linear(size, config.dim) for size in sizes)

    def forward(self, spectra: Tensor) -> Tensor:
        exponent = self.config.compression
        vectors, start = [], 0
        for bins, group, norm, linear in zip(
            self.config.bands, self.config.groups, self.norms, self.linears, strict=True
        ):
            band = torch.view_as_real(spectra[..., start : start + bins])  # [batch, channels, frames, bins, 2]
            start += bins
            if group == 1:
                if exponent != 1.0:
                    band = band * (band.square().sum(-1, keepdim=True) + 1e-12).pow((exponent - 1.0) / 2.0)
                features = band.permute(0, 2, 3, 1, 4).flatten(2)
            else:
                both = torch.cat((band, _sum_and_difference(band)), dim=1).square().sum(-1)
                fill = -bins % group
                power = F.pad(both, (0, fill)).view(*both.shape[:-1], -1, group).mean(-1)
                features = (power + 1e-12).pow(exponent / 2.0).permute(0, 2, 3, 1).flatten(2)
            vectors.append(linear(norm(features)))
        return torch.stack(vectors, dim=2)


def _sum_and_difference(band: Tensor) -> Tensor:
    """`[batch, channels, ...]` -> mean and half differences from the first channel, as many as there are channels."""
    mean = band.mean(1, keepdim=True)
    return torch.cat((mean, (band[:, :1] - band[:, 1:]) / 2.0), dim=1)


class MaskEstimator(nn.Module):
    """Band vectors to masks: `[batch, frames, bands, dim]` -> complex `[batch, stems, channels, frames, bins]`.

    For each band a tanh layer (one a stem, or one for all stems) and a gated linear unit for every stem.
    """

    def __init__(self, config: BSRoFormerConfig) -> None:
        super().__init__()
        self.config = config
        bands, hidden, stems = len(config.bands), config.mask_hidden, len(config.stems)
        self.layers = 1 if config.share_mask_hidden else stems
        self.hidden_weight = nn.Parameter(torch.empty(bands, config.dim, self.layers * hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(bands, 1, self.layers * hidden))
        nn.init.uniform_(self.hidden_weight, -(config.dim**-0.5), config.dim**-0.5)
        self.values = config.mask_values()
        width = max(stems // self.layers, 1)
        # layer by layer, band by band
        self.outputs = nn.ModuleList(
            nn.Linear(hidden, width * config.channels * 2 * 2 * values)
            for _ in range(self.layers)
            for values in self.values
        )
        index, start = [], 0
        for bins, group, values in zip(config.bands, config.groups, self.values, strict=True):
            index.append(start + torch.arange(bins) // group)
            start += values
        self.bin_to_value: Tensor
        self.register_buffer("bin_to_value", torch.cat(index), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # start near even real masks: every stem a share of the mix
                shape = (width, config.channels, 2, 2, -1)
                with torch.no_grad():
                    module.bias.zero_()
                    module.bias.view(shape)[:, :, 0, 0] = 2.0 / stems  # real part, times sigmoid(0)

    def _values_first(self, linear: nn.Module, values: int) -> tuple[Tensor, Tensor]:
        """Weight and bias with the mask values as the slowest axis: the bands' outputs are then joined in long contiguous blocks."""
        assert isinstance(linear, nn.Linear)
        weight, bias = linear.weight, linear.bias
        return weight.view(-1, values, weight.shape[1]).transpose(0, 1).flatten(0, 1), bias.view(-1, values).T.flatten()

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        batch, frames, bands, dim = x.shape
        flat = x.permute(2, 0, 1, 3).reshape(bands, batch * frames, dim)
        hidden = torch.baddbmm(self.hidden_bias, flat, self.hidden_weight).tanh()
        layers = []
        for layer, parts in enumerate(hidden.chunk(self.layers, dim=-1)):
            pieces = [
                F.linear(part, *self._values_first(self.outputs[layer * bands + band], values)).view(
                    batch, frames, values, -1, config.channels, 2, 2
                )
                for band, (part, values) in enumerate(zip(parts.unbind(0), self.values, strict=True))
            ]
            layers.append(torch.cat(pieces, dim=2))
        value, gate = torch.cat(layers, dim=3).unbind(
            -1
        )  # [batch, frames, values, stems, channels, real and imaginary]
        masks = (value * gate.sigmoid()).permute(0, 3, 4, 1, 2, 5)
        complex_masks = torch.view_as_complex(masks.contiguous())
        if config.sum_to_mix:
            missing = 1.0 - complex_masks.sum(1, keepdim=True)
            complex_masks = complex_masks + missing / len(config.stems)
        return complex_masks[..., self.bin_to_value]


class BSRoFormer(nn.Module):
    """Mix in, stems out. See the module's docstring; masks multiply the mix's spectra, so silence stays silence."""

    def __init__(self, config: BSRoFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.band_split = BandSplit(config)
        self.time_blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.band_blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = RMSNorm(config.dim)
        self.mask_estimator = MaskEstimator(config)

    def spectra(self, audio: Tensor) -> Tensor:
        """`audio [batch, channels, samples]`, filled up to whole hops -> `[batch, channels, frames, bins]`."""
        return stft(F.pad(audio, (0, -audio.shape[-1] % self.config.hop)), self.window, self.config.hop)

    def masks(self, spectra: Tensor) -> Tensor:
        """Complex `[batch, stems, channels, frames, bins]` for the mix's `spectra [batch, channels, frames, bins]`."""
        # one gain for each item makes the masks independent of the level of the mix; the floor is for silence
        power = torch.view_as_real(spectra).square().mean(dim=(1, 2, 3, 4), keepdim=True)[..., 0]
        x = self.band_split(spectra / (power * math.sqrt(self.config.n_fft) + 1e-8).sqrt())
        batch, frames, bands, dim = x.shape
        turning = speeds(self.config.head_dim, device=x.device)
        along_time, along_bands = neighbour_turns(frames, turning), neighbour_turns(bands, turning)
        x = x.transpose(1, 2)  # [batch, bands, frames, dim]
        for time_block, band_block in zip(self.time_blocks, self.band_blocks, strict=True):
            x = time_block(x.reshape(batch * bands, frames, dim), along_time).view(batch, bands, frames, dim)
            x = band_block(x.transpose(1, 2).reshape(batch * frames, bands, dim), along_bands)
            x = x.view(batch, frames, bands, dim).transpose(1, 2)
        masks: Tensor = self.mask_estimator(self.final_norm(x).transpose(1, 2))
        return masks

    def separate_stems(self, audio: Tensor, stems: tuple[str, ...] | None = None) -> Tensor:
        """`[batch, stems, channels, samples]` of the named stems (default: all, in the order of the config)."""
        spectra = self.spectra(audio)
        masks = self.masks(spectra)
        if stems is not None:
            masks = masks[:, [self.config.stems.index(stem) for stem in stems]]
        return istft(spectra.unsqueeze(1) * masks, self.window, self.config.hop)[..., : audio.shape[-1]]

    def forward(self, audio: Tensor) -> Tensor:
        """Separate `audio [batch, channels, samples]` -> `[batch, stems, channels, samples]`, of its length exactly."""
        return self.separate_stems(audio)
