"""BS-RoFormer exactly as its four-stem checkpoint was published: names and shapes of the weights, transform, plan.

The checkpoint is `model_bs_roformer_ep_17_sdr_9.6568.ckpt` with `config_bs_roformer_384_8_2_485100.yaml` (ZFTurbo,
Music-Source-Separation-Training, release v1.0.12; MIT): 1355 tensors, 131.70M parameters, stems in the order drums, bass,
other, vocals. Our own `bs_roformer.py` is the same architecture with other names, another framing and switches for small
machines. Here modules are nested as the names of the weights demand, e.g. `layers.0.1.layers.0.0.to_out.0.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config, parse
from duotok.errors import ConfigError
from duotok.nn.attention import gated_attention
from duotok.nn.feed_forward import normed_feed_forward
from duotok.nn.rope import neighbour_turns, speeds
from duotok.separation.chunked import ACCOMPANIMENT, VOCALS, ChunkedSeparator
from duotok.separation.weights import check_weights_file, load_strict

Pairs = Iterable[tuple[nn.Module, nn.Module]]
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


class ModelConfig(Config):
    """The `model` section of the published YAML; the defaults are those of the published code.

    Options without effect on separation (losses, dropout, kernels of attention) are read and ignored.
    """

    dim: int
    depth: int = Field(ge=1)
    stereo: bool = False
    num_stems: int = Field(default=1, ge=1)
    time_transformer_depth: int = 2
    freq_transformer_depth: int = 2
    linear_transformer_depth: Literal[0] = 0
    freqs_per_bands: tuple[int, ...] = BANDS
    dim_head: int = 64
    heads: int = 8
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    flash_attn: bool = True
    dim_freqs_in: int = 1025
    stft_n_fft: int = 2048
    stft_hop_length: int = 512
    stft_win_length: int = 2048
    stft_normalized: bool = False
    mask_estimator_depth: int = Field(default=2, ge=1)
    multi_stft_resolution_loss_weight: float = 1.0
    multi_stft_resolutions_window_sizes: tuple[int, ...] = ()
    multi_stft_hop_size: int = 147
    multi_stft_normalized: bool = False
    mlp_expansion_factor: int = 4
    use_torch_checkpoint: bool = False
    skip_connection: Literal[False] = False
    sage_attention: bool = False
    zero_dc: bool = False  # later versions of the published code silence the lowest bin of every stem

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        bins = self.stft_n_fft // 2 + 1
        if sum(self.freqs_per_bands) != bins:
            raise ValueError(f"freqs_per_bands add up to {sum(self.freqs_per_bands)}, stft_n_fft has {bins} bins")
        if not 0 < self.stft_win_length <= self.stft_n_fft:
            raise ValueError("stft_win_length must be at most stft_n_fft")
        if not 0 < self.stft_hop_length <= self.stft_win_length // 2:
            raise ValueError("stft_hop_length must be at most half of stft_win_length")
        return self

    @property
    def channels(self) -> int:
        return 2 if self.stereo else 1


class PublishedConfig(Config):
    """The part of the published YAML that defines a separator. `stems`: by name, in the order of the mask estimators."""

    model: ModelConfig
    stems: tuple[str, ...]
    sample_rate: int = Field(default=44_100, gt=0)
    chunk_size: int = Field(gt=0)
    num_overlap: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _stems_fit(self) -> PublishedConfig:
        if len(self.stems) != self.model.num_stems or len(set(self.stems)) != len(self.stems):
            raise ValueError(f"{self.model.num_stems} stems (num_stems) cannot be called {', '.join(self.stems)}")
        if VOCALS not in self.stems:
            raise ValueError(f"none of the stems {', '.join(self.stems)} is '{VOCALS}'")
        if self.chunk_size <= self.model.stft_n_fft:
            raise ValueError("chunk_size must be more than stft_n_fft")
        return self


class _Loader(yaml.SafeLoader):
    """SafeLoader with one more tag, a Python tuple, which becomes a list. Any other Python tag is refused."""


def _sequence(loader: yaml.SafeLoader, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)


def read_config(path: str | Path) -> PublishedConfig:
    """Read a published YAML. Raises ConfigError naming file and key, and for YAML that constructs Python objects."""
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}: not plain YAML ({reason}); get the published file again") from None

    def section(name: str) -> dict[str, Any]:
        content = values.get(name) if isinstance(values, dict) else None
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: has no section '{name}'; it is not the configuration of a BS-RoFormer")
        return content

    audio, training = section("audio"), section("training")
    names, target = training.get("instruments"), training.get("target_instrument")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: training.instruments = {names!r}: must list the names of the stems")
    inference = values.get("inference") or {}
    settings: dict[str, Any] = {
        "model": section("model"),
        "stems": (target,) if target else tuple(names),
        "sample_rate": audio.get("sample_rate", 44_100),
        "chunk_size": inference.get("chunk_size", audio.get("chunk_size")),
        "num_overlap": inference.get("num_overlap", 2),
    }
    return parse(PublishedConfig, settings, str(path))


class RMSNorm(nn.Module):
    """x / |x| * sqrt(dim) * gamma over the last axis; nothing is added to |x|, so quiet bands count as much as loud
    ones (unlike that of `bs_roformer.py`)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = F.normalize(x, dim=-1) * self.scale * self.gamma
        return normed


class Rotary(nn.Module):
    """Rotary positions with their frequencies as a (frozen) weight `freqs [head_dim / 2]`; one for all layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(speeds(dim), requires_grad=False)

    def forward(self, length: int) -> Tensor:
        """Turns of `length` positions, as `gated_attention` takes them."""
        return neighbour_turns(length, self.freqs)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, rotary: Rotary) -> None:
        super().__init__()
        inner = config.heads * config.dim_head
        self.rotary_embed = rotary
        self.norm = RMSNorm(config.dim)
        self.to_qkv = nn.Linear(config.dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(config.dim, config.heads)
        self.to_out = nn.Sequential(nn.Linear(inner, config.dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        attended = gated_attention(self.to_qkv(x), self.to_gates(x), self.rotary_embed(x.shape[1]))
        out: Tensor = self.to_out(attended)
        return out


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = normed_feed_forward(RMSNorm(dim), dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class Transformer(nn.Module):
    """Along one axis, `[batch, length, dim]`; no norm at its end."""

    def __init__(self, config: ModelConfig, depth: int, rotary: Rotary) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList((Attention(config, rotary), FeedForward(config.dim))) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for attention, feedforward in cast(Pairs, self.layers):
            x = attention(x) + x
            x = feedforward(x) + x
        return x


class BandSplit(nn.Module):
    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(size), nn.Linear(size, dim)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        bands = zip(torch.split(x, self.sizes, dim=-1), self.to_features, strict=True)
        return torch.stack([to_features(band) for band, to_features in bands], dim=-2)


class MaskEstimator(nn.Module):
    """`[batch, frames, bands, dim]` -> `[batch, frames, sum(sizes)]`: for each band a tanh MLP and a gated linear unit."""

    def __init__(self, config: ModelConfig, sizes: Sequence[int]) -> None:
        super().__init__()
        hidden = config.dim * config.mlp_expansion_factor
        self.to_freqs = nn.ModuleList()
        for size in sizes:
            widths = (config.dim, *((hidden,) * (config.mask_estimator_depth - 1)), 2 * size)
            layers = [module for pair in pairwise(widths) for module in (nn.Linear(*pair), nn.Tanh())]
            self.to_freqs.append(nn.Sequential(nn.Sequential(*layers[:-1]), nn.GLU(dim=-1)))

    def forward(self, x: Tensor) -> Tensor:
        bands = zip(x.unbind(-2), self.to_freqs, strict=True)
        return torch.cat([to_freqs(band) for band, to_freqs in bands], dim=-1)


class PublishedBSRoFormer(nn.Module):
    """The network. `load_state_dict(strict=True)` takes the published weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        along_time, along_bands = Rotary(config.dim_head), Rotary(config.dim_head)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    Transformer(config, config.time_transformer_depth, along_time),
                    Transformer(config, config.freq_transformer_depth, along_bands),
                )
            )
            for _ in range(config.depth)
        )
        self.final_norm = RMSNorm(config.dim)
        sizes = [2 * config.channels * bins for bins in config.freqs_per_bands]
        self.band_split = BandSplit(config.dim, sizes)
        self.mask_estimators = nn.ModuleList(MaskEstimator(config, sizes) for _ in range(config.num_stems))
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(config.stft_win_length), persistent=False)

    def forward(self, audio: Tensor, stems: Sequence[int] | None = None) -> Tensor:
        """`audio [batch, channels, samples > n_fft / 2]` -> `[batch, stems, channels, samples]`; stems: which (default: all).

        Masks are complex and unbounded, one value for each bin and channel; centred frames with reflected edges.
        """
        config = self.config
        batch, channels, samples = audio.shape
        plan: dict[str, Any] = {
            "n_fft": config.stft_n_fft,
            "hop_length": config.stft_hop_length,
            "win_length": config.stft_win_length,
            "window": self.window,
            "normalized": config.stft_normalized,
        }
        spectra = torch.stft(audio.flatten(0, 1), **plan, return_complex=True)
        spectra = spectra.view(batch, channels, *spectra.shape[1:])
        # the values of a bin are adjacent: channel by channel, real and imaginary part
        x = self.band_split(torch.view_as_real(spectra.permute(0, 3, 2, 1)).flatten(2))
        frames, bands = x.shape[1], x.shape[2]
        for along_time, along_bands in cast(Pairs, self.layers):
            x = along_time(x.transpose(1, 2).flatten(0, 1)).view(batch, bands, frames, -1).transpose(1, 2)
            x = along_bands(x.flatten(0, 1)).view(batch, frames, bands, -1)
        x = self.final_norm(x)
        chosen = range(config.num_stems) if stems is None else stems
        outputs = []
        for stem in chosen:
            masks = torch.view_as_complex(self.mask_estimators[stem](x).view(batch, frames, -1, channels, 2))
            product = spectra * masks.permute(0, 3, 2, 1)
            if config.zero_dc:
                product[:, :, 0] = 0.0
            outputs.append(torch.istft(product.flatten(0, 1), **plan, length=samples).view(batch, channels, -1))
        return torch.stack(outputs, dim=1)


class PublishedSeparator(ChunkedSeparator):
    """A published BS-RoFormer behind the separator's interface, 48 kHz outside.

    The plan is the published one: chunks of `chunk_size` that overlap by half (more overlap in the YAML is run as
    half), weighted flat with linear fades over a tenth of a chunk; a short last chunk is padded by reflection.
    """

    def __init__(
        self,
        model: PublishedBSRoFormer,
        config: PublishedConfig,
        stems: tuple[str, ...] = (VOCALS, ACCOMPANIMENT),
        sample_rate: int = 48_000,
    ) -> None:
        chunk = config.chunk_size
        overlap = 0 if config.num_overlap == 1 else chunk - chunk // 2
        overlap = min(overlap, chunk // 2)
        fade = torch.linspace(0, 1, chunk // 10)
        weights = torch.ones(chunk)
        weights[: len(fade)], weights[chunk - len(fade) :] = fade, fade.flip(0)
        rising, falling = weights[:overlap], weights[chunk - overlap :]
        rise = rising / (rising + falling)
        super().__init__(config.stems, stems, chunk, rise, rate=config.sample_rate, sample_rate=sample_rate)
        self.model, self._names = model.eval(), config.stems

    def estimate(self, mix: Tensor, stems: tuple[str, ...]) -> Tensor:
        samples = mix.shape[-1]
        mode = "reflect" if samples > self.chunk // 2 + 1 else "constant"
        audio = F.pad(mix[None], (0, self.chunk - samples), mode=mode).to(self.model.window.device)
        if self.model.config.channels == 1:
            audio = audio.transpose(0, 1)  # each channel alone
        out = self.model(audio, [self._names.index(stem) for stem in stems])
        out = out.transpose(0, 2) if self.model.config.channels == 1 else out
        estimates: Tensor = out[0, ..., :samples].cpu()
        return estimates


def load_published(
    weights: str | Path,
    config: str | Path | None = None,
    device: str | torch.device = "cpu",
    stems: tuple[str, ...] = (VOCALS, ACCOMPANIMENT),
) -> PublishedSeparator:
    """A separator from converted weights (.safetensors) and the published YAML (default: the one beside the weights).

    Raises ConfigError for a pickle, for weights that do not fit the YAML, and for stems without names.
    """
    weights = Path(weights)
    check_weights_file(weights)
    if config is None:
        yaml_files = sorted(weights.parent.glob("*.y*ml"))
        if len(yaml_files) != 1:
            raise ConfigError(f"{weights.parent}: {len(yaml_files)} YAML files beside the weights; name the right one")
        config = yaml_files[0]
    settings = read_config(config)
    with torch.device("meta"):
        model = PublishedBSRoFormer(settings.model)
    model = model.to_empty(device="cpu")
    model.window.copy_(torch.hann_window(settings.model.stft_win_length))
    load_strict(weights, model)
    return PublishedSeparator(model.requires_grad_(False).to(device), settings, stems)
