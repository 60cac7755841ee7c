"""The ear-VAE: sound to latents and back by strided convolutions, as it was published (arXiv 2509.14912).

Two versions are known: 48 kHz, 960 samples a latent, convolutions only (v2, the one whose 50 latents a second the renderer
wants), and 44.1 kHz, 1024 samples, with two layers of attention in front of the decoder (v1). Every size comes from the JSON
that lies beside the weights. Modules are nested as the published names demand, weight norm folded into the weights and the
Snake that a residual unit uses twice kept once (`ear_vae_files.py`). Latents are the mean of the posterior: the published
deviation is softplus of the second half of the encoder's output, and nothing here draws from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import FRAME_SAMPLES, LATENT_SAMPLES, SAMPLE_RATE
from duotok.config import Config
from duotok.renderer.contract import LatentAutoencoder
from duotok.renderer.layers import Transformer
from duotok.renderer.render import decode_blocks

DILATIONS = (1, 3, 9)
KERNEL, LAST_KERNEL = 7, 3
MOST_PARAMETERS = 2e9
"""More than ten times the published 148M weights. Larger configs are refused before anything is built."""

Width = Annotated[int, Field(gt=0, le=4096)]
Few = Annotated[int, Field(gt=0, le=64)]
Multiples = Annotated[tuple[Few, ...], Field(min_length=1, max_length=16)]


class _Convolutions(Config):
    channels: Width = 128
    latent_dim: Width = 32
    c_mults: Multiples = (1, 2, 4, 8)
    strides: Multiples = (2, 4, 8, 8)
    use_snake: Literal[True]
    antialias_activation: Literal[False] = False
    bias: Literal[True] = True

    @model_validator(mode="after")
    def _fits(self) -> _Convolutions:
        if len(self.c_mults) != len(self.strides):
            raise ValueError(f"{len(self.c_mults)} c_mults and {len(self.strides)} strides; a block has one of each")
        odd = [stride for stride in self.strides if stride % 2]
        if odd:  # with odd strides the published padding loses a sample in each block, and hops would not be whole
            raise ValueError(f"stride {odd[0]} is odd; only even ones give whole hops")
        return self

    @property
    def widths(self) -> list[int]:
        """Channels at the rate of sound, then behind each block."""
        return [self.channels, *(multiple * self.channels for multiple in self.c_mults)]

    @property
    def ratio(self) -> int:
        return math.prod(self.strides)

    @property
    def parameters(self) -> int:
        """Approximate number of weights of the blocks, used to refuse absurd sizes."""
        units = 3 * (KERNEL + 1)
        return sum(
            units * min(a, b) ** 2 + 2 * s * a * b
            for a, b, s in zip(self.widths, self.widths[1:], self.strides, strict=False)
        )


class EncoderConfig(_Convolutions):
    """`encoder.config` of the published JSON; defaults are those of the published code."""

    in_channels: Literal[1, 2] = 2


class DecoderConfig(_Convolutions):
    """`decoder.config` of the published JSON."""

    out_channels: Literal[1, 2] = 2
    use_nearest_upsample: Literal[False] = False
    final_tanh: bool = True


class AttentionConfig(Config):
    rotary_pos_emb: Literal[True] = True
    dim_heads: int = Field(default=64, ge=2, le=512)


class TransformerConfig(Config):
    """`transformer` of the published JSON: layers over latents, in front of the decoder."""

    depth: Few
    config: AttentionConfig = AttentionConfig()


class _Encoder(Config):
    config: EncoderConfig


class _Decoder(Config):
    config: DecoderConfig


class PublishedConfig(Config):
    """The published JSON, read as it is. Options that change the sound and are not known here are refused."""

    transformer: TransformerConfig | None = None
    encoder: _Encoder
    decoder: _Decoder
    latent_dim: Width
    downsampling_ratio: int = Field(gt=0, le=65_536)
    io_channels: Literal[1, 2]

    @model_validator(mode="after")
    def _check_consistency(self) -> PublishedConfig:
        encoder, decoder = self.encoder.config, self.decoder.config
        values_by_text: dict[str, set[float]] = {
            f"downsampling_ratio {self.downsampling_ratio}, encoder strides {encoder.ratio}, decoder strides "
            f"{decoder.ratio}": {self.downsampling_ratio, encoder.ratio, decoder.ratio},
            f"io_channels {self.io_channels}, in_channels {encoder.in_channels}, out_channels {decoder.out_channels}": {
                self.io_channels,
                encoder.in_channels,
                decoder.out_channels,
            },
            f"latent_dim {self.latent_dim}, decoder.latent_dim {decoder.latent_dim}, half of encoder.latent_dim "
            f"{encoder.latent_dim / 2:g}": {self.latent_dim, decoder.latent_dim, encoder.latent_dim / 2},
        }
        for text, values in values_by_text.items():
            if len(values) > 1:
                raise ValueError(f"{text} must be one number")
        if (weights := encoder.parameters + decoder.parameters) > MOST_PARAMETERS:
            raise ValueError(f"{weights:.3g} weights, over the {MOST_PARAMETERS:.0g} that are read here")
        heads = self.transformer.config.dim_heads if self.transformer else 2
        if self.latent_dim % heads or heads % 2:
            raise ValueError(f"latent_dim {self.latent_dim} cannot be cut into heads of {heads}")
        return self


class EarVAEConfig(Config):
    """An ear-VAE as an autoencoder of the renderer. The JSON does not tell the rate; v2 has 48 kHz, v1 44.1 kHz."""

    kind: Literal["ear-vae"]
    model: PublishedConfig
    sample_rate: int = Field(default=SAMPLE_RATE, gt=0, le=1_536_000)
    licence: str = Field(default="Apache-2.0", description="of the weights")
    source: str = Field(default="", description="where they are from, with the start of their sha256")

    @property
    def latent_dim(self) -> int:
        return self.model.latent_dim

    @property
    def hop(self) -> int:
        """Samples of a latent."""
        return self.model.downsampling_ratio

    @property
    def latents_per_frame(self) -> int:
        """Latent frames of a token frame, where the renderer can use it."""
        return FRAME_SAMPLES // self.hop

    @property
    def misfit(self) -> str:
        """Why the renderer cannot use it; empty when it can."""
        if (self.sample_rate, self.hop) == (SAMPLE_RATE, LATENT_SAMPLES):
            return ""
        return (
            f"an ear-VAE of {self.sample_rate} Hz and {self.hop} samples a latent ({self.sample_rate / self.hop:.4g} a second); "
            f"the renderer has {SAMPLE_RATE} Hz and {LATENT_SAMPLES} ({SAMPLE_RATE // LATENT_SAMPLES}): use the 48 kHz version"
        )


class SnakeBeta(nn.Module):
    """x + sin^2(e^alpha x) / e^beta, both learned for each channel: `[batch, width, samples]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        share = 1.0 / (self.beta.exp() + 1e-9)
        return torch.addcmul(x, share[:, None], torch.sin(x * self.alpha.exp()[:, None]).square())


class ResidualUnit(nn.Module):
    """Snake, dilated convolution, the same Snake again, pointwise convolution; residual."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        # The indices are those of the published list, in which the same Snake appears twice: at 0 and at 2.
        self.layers = nn.ModuleDict(
            {
                "0": SnakeBeta(width),
                "1": nn.Conv1d(width, width, KERNEL, dilation=dilation, padding=dilation * (KERNEL // 2)),
                "3": nn.Conv1d(width, width, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        snake = self.layers["0"]
        out: Tensor = x + self.layers["3"](snake(self.layers["1"](snake(x))))
        return out


class _Stack(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _units(width: int) -> list[nn.Module]:
    return [ResidualUnit(width, dilation) for dilation in DILATIONS]


def encoder_of(config: EncoderConfig) -> nn.Module:
    """`[batch, in_channels, samples]` to `[batch, latent_dim, samples / ratio]`."""
    widths = config.widths
    blocks = [
        _Stack(*_units(a), SnakeBeta(a), nn.Conv1d(a, b, 2 * s, stride=s, padding=s // 2))
        for a, b, s in zip(widths, widths[1:], config.strides, strict=False)
    ]
    first = nn.Conv1d(config.in_channels, widths[0], KERNEL, padding=KERNEL // 2)
    last = nn.Conv1d(widths[-1], config.latent_dim, LAST_KERNEL, padding=LAST_KERNEL // 2)
    return _Stack(first, *blocks, SnakeBeta(widths[-1]), last)


def decoder_of(config: DecoderConfig) -> nn.Module:
    """`[batch, latent_dim, frames]` to `[batch, out_channels, frames * ratio]`."""
    widths, strides = config.widths[::-1], config.strides[::-1]
    blocks = [
        _Stack(SnakeBeta(a), nn.ConvTranspose1d(a, b, 2 * s, stride=s, padding=s // 2), *_units(b))
        for a, b, s in zip(widths, widths[1:], strides, strict=False)
    ]
    first = nn.Conv1d(config.latent_dim, widths[0], KERNEL, padding=KERNEL // 2)
    last = nn.Conv1d(widths[-1], config.out_channels, KERNEL, padding=KERNEL // 2, bias=False)
    end: list[nn.Module] = [nn.Tanh()] if config.final_tanh else []
    return _Stack(first, *blocks, SnakeBeta(widths[-1]), last, *end)


def decoder_reach(strides: tuple[int, ...]) -> int:
    """Latent frames on each side of one that its samples can depend on, followed back through the layers."""
    low, high = -(KERNEL // 2), math.prod(strides) - 1 + KERNEL // 2
    reach = (KERNEL // 2) * sum(DILATIONS)
    for stride in strides:  # the encoder's order: the decoder's last block first
        low, high = low - reach, high + reach
        # In the transposed convolution, sample n depends on inputs from (n + s/2) / s - 1 up to (n + s/2) / s.
        low, high = (low + stride // 2) // stride - 1, (high + stride // 2) // stride
    return max(-(low - KERNEL // 2), high + KERNEL // 2)


def encoder_reach(strides: tuple[int, ...]) -> int:
    """Latent frames on each side of one whose samples it can depend on."""
    low, high = -(LAST_KERNEL // 2), LAST_KERNEL // 2
    reach = (KERNEL // 2) * sum(DILATIONS)
    for stride in strides[::-1]:
        low, high = stride * low - stride // 2, stride * high - stride // 2 + 2 * stride - 1
        low, high = low - reach, high + reach
    low, high, hop = low - KERNEL // 2, high + KERNEL // 2, math.prod(strides)
    return max(-(low // hop), high // hop)


class EarVAE(LatentAutoencoder):
    """The published network. `mean`, `std` `[latent_dim]` bring its latents to unit variance; 0 and 1 until they are measured."""

    config: EarVAEConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: EarVAEConfig) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.encoder = encoder_of(model.encoder.config)
        self.decoder = decoder_of(model.decoder.config)
        self.transformers = (
            Transformer(model.latent_dim, model.transformer.config.dim_heads, model.transformer.depth)
            if model.transformer
            else None
        )
        self.register_buffer("mean", torch.zeros(model.latent_dim))
        self.register_buffer("std", torch.ones(model.latent_dim))

    @property
    def channels(self) -> int:
        return self.config.model.io_channels

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def receptive_field(self) -> int:
        """Latent frames on each side that a sample can depend on by convolutions. v1's attention sees all: `decode_windows`."""
        return decoder_reach(self.config.model.decoder.config.strides)

    @property
    def encoder_field(self) -> int:
        return encoder_reach(self.config.model.encoder.config.strides)

    def raw_latents(self, audio: Tensor) -> Tensor:
        """`[batch, channels, samples]` to the posterior's mean `[batch, ceil(samples / hop), latent_dim]`, not standardised.

        Sound is padded to the hop with zeros (the published code drops the rest); one channel is heard as two equal ones.
        """
        audio = F.pad(audio, (0, -audio.shape[-1] % self.config.hop)).expand(-1, self.channels, -1)
        mean: Tensor = self.encoder(audio).chunk(2, dim=1)[0]
        return mean.transpose(1, 2)

    def encode(self, audio: Tensor) -> Tensor:
        return (self.raw_latents(audio) - self.mean) / self.std

    def attended(self, latents: Tensor) -> Tensor:
        """What the convolutions of the decoder are given, `[batch, latent_dim, frames]`: v1's attention is in it."""
        raw = latents * self.std + self.mean
        attended: Tensor = raw if self.transformers is None else self.transformers(raw)
        return attended.transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        sound: Tensor = self.decoder(self.attended(latents))
        return sound

    @torch.no_grad()
    def decode_windows(self, latents: Tensor, block: int = 500) -> Iterator[Tensor]:
        """Sound `[channels, samples]` of latents `[frames, latent_dim]` in blocks, equal to `decode` of all of them.

        Only the convolutions go in windows: attention, where there is any, sees all latents first (64 numbers each).
        """
        return decode_blocks(_Convolved(self), [self.attended(latents[None])[0].T], block)


class _Convolved:
    """The decoder's convolutions alone, as a `LatentDecoder` of what `EarVAE.attended` gives."""

    def __init__(self, vae: EarVAE) -> None:
        self.vae, self.receptive_field, self.hop = vae, vae.receptive_field, vae.hop

    def decode(self, latents: Tensor) -> Tensor:
        sound: Tensor = self.vae.decoder(latents.transpose(1, 2))
        return sound
