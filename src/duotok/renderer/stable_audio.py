"""The diffusion transformer of stable-audio-tools with its condition concatenated to the input, weights exchangeable both ways.

The other reading of the paper's 400M (3.4, Table 8): 1024 x 24 x 16 with input concatenation has 404 to 407M. It differs from
`dit.py` in how time enters (as a token in front of the latents), in that a condition is repeated for the latent frames of a
token and nothing more, and in that attention has no window. What is published besides (cross-attention, adaLN, prepended
conditions, memory tokens, patches) is not here, and a checkpoint with it is refused by its names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Size, Tensor, nn

from duotok.config import Config, parse
from duotok.errors import ConfigError
from duotok.nn.masks import frame_mask
from duotok.renderer.contract import LatentDiffusion
from duotok.renderer.layers import Transformer
from duotok.renderer.published_state import check_state, read_checkpoint, read_published_json

TIME_FEATURES = 256
"""Cosines and sines of t; the published code has as many for every width."""
ANCHOR = "transformer.project_in.weight"
"""A weight that every such checkpoint has; what precedes this name is the prefix of all names."""
STATISTICS = ("mean", "scale", "nothing")
"""Our own tensors: the standardisation of the condition, which a conditioner does there, and the vector for "no codes"."""
OBJECTIVES = {"v": "v", "rectified_flow": "flow"}


class StableAudioConfig(Config):
    """Shape of the transformer; published names in brackets. The defaults are the preset of the paper's size."""

    kind: Literal["stable-audio"]
    latent_dim: int = Field(default=64, gt=0, le=4096, description="[io_channels]")
    latents_per_frame: Literal[1, 2] = Field(
        default=2,
        description="latent frames of a token frame (40 ms): 2, or 1 for an autoencoder of 25 latents a second",
    )
    condition: Literal["code", "proj_out"] = Field(
        default="code", description="what stands for a token: its code vector, or proj out of it"
    )
    condition_dim: int = Field(default=16, gt=0, le=65_536, description="width of that vector [input_concat_dim]")
    width: int = Field(default=1024, gt=0, le=16_384, description="[embed_dim]")
    heads: int = Field(default=16, gt=0, le=512, description="[num_heads]")
    blocks: int = Field(default=24, gt=0, le=512, description="[depth]")
    objective: Literal["v", "flow"] = Field(default="v", description="[diffusion_objective]")
    unconditional: bool = Field(default=False, description="it also learned without its condition; see DiTConfig")
    guidance: float = Field(default=1.0, ge=0, description="classifier-free guidance of rendering; 1 = none")
    licence: str = Field(default="Apache-2.0", description="of the weights, where they come from elsewhere")
    source: str = Field(default="", description="where they come from; empty: trained here")

    @model_validator(mode="after")
    def _fits(self) -> StableAudioConfig:
        # rotary positions turn at least 32 channels of a head
        if self.width % self.heads or self.width // self.heads < 32:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}, with 32 or more for each")
        if self.guidance != 1.0 and not self.unconditional:
            raise ValueError(f"guidance {self.guidance} needs a model that was trained with unconditional: true")
        return self


class TimeFeatures(nn.Module):
    """Cosines and sines of 2 pi w t, w `[features / 2, 1]` drawn once: `[batch]` to `[batch, features]`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features // 2, 1))

    def forward(self, t: Tensor) -> Tensor:
        # Not as the matrix product that is published: autocast would round it to half precision, by up to a tenth of a radian.
        angles = 2 * math.pi * t[:, None] * self.weight[:, 0]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class StableAudioDiT(LatentDiffusion):
    """Noisy latents, time and code vectors to the velocity, with the published names for all learned weights.

    Starts as the published code does: output layers of blocks and the residual convolutions at zero.
    """

    config: StableAudioConfig
    mean: Tensor
    scale: Tensor

    def __init__(self, config: StableAudioConfig) -> None:
        super().__init__()
        self.config = config
        width, inside = config.width, config.latent_dim + config.condition_dim
        self.timestep_features = TimeFeatures(TIME_FEATURES)
        self.to_timestep_embed = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = Transformer(width, width // config.heads, config.blocks, inside, config.latent_dim)
        self.preprocess_conv = nn.Conv1d(inside, inside, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(config.latent_dim, config.latent_dim, 1, bias=False)
        self.register_buffer("mean", torch.zeros(config.condition_dim))
        self.register_buffer("scale", torch.ones(config.condition_dim))
        if config.unconditional:
            self.nothing = nn.Parameter(torch.zeros(config.condition_dim))
        self.transformer.silence()
        for convolution in (self.preprocess_conv, self.postprocess_conv):
            nn.init.zeros_(convolution.weight)

    @property
    def receptive_field(self) -> int | None:
        """None: attention sees all latent frames."""
        return None

    @torch.no_grad()
    def standardise(self, vectors: Tensor) -> None:
        self.mean.copy_(vectors.float().mean(0))
        self.scale.copy_(1 / vectors.float().std(0).clamp_min(1e-4))

    def forward(
        self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """Velocity `[batch, latent_frames, latent_dim]`, zero beyond `lengths`; arguments and errors as `dit.DiT.forward`.

        With `lengths`, padding is masked in attention. The published code does not mask it.
        """
        frames, tokens, per_frame = noisy.shape[1], condition.shape[1], self.config.latents_per_frame
        if tokens != -(-frames // per_frame):
            raise ValueError(f"{frames} latent frames need {-(-frames // per_frame)} code vectors, not {tokens}")
        upsampled = (condition - self.mean) * self.scale
        if dropped is not None:
            upsampled = torch.where(dropped[:, None, None], self.nothing.to(upsampled.dtype), upsampled)
        upsampled = upsampled.repeat_interleave(per_frame, dim=1)[:, :frames].to(noisy.dtype)
        x = torch.cat([noisy, upsampled], dim=-1).transpose(1, 2)
        x = (self.preprocess_conv(x) + x).transpose(1, 2)
        valid = mask = None
        if lengths is not None:
            valid = frame_mask(lengths, frames)
            mask = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)[:, None, None]
        time = self.to_timestep_embed(self.timestep_features(t.to(noisy.dtype)))[:, None]
        v = self.transformer(x, time, mask)[:, 1:].transpose(1, 2)
        v = (self.postprocess_conv(v) + v).transpose(1, 2)
        out: Tensor = v if valid is None else v * valid[..., None]
        return out


def published_shapes(dit: nn.Module) -> dict[str, Size]:
    """Names and shapes of the published checkpoint of this network."""
    return {name: value.shape for name, value in dit.state_dict().items() if name not in STATISTICS}


def to_published(dit: StableAudioDiT, prefix: str = "") -> dict[str, Tensor]:
    """Weights under the published names behind `prefix` ("model.model." in a whole model of stable-audio-tools).

    The standardisation of the condition is not included: give that model conditions that are already standardised.
    """
    return {
        prefix + name: value.detach().cpu().clone().contiguous()
        for name, value in dit.state_dict().items()
        if name not in STATISTICS
    }


def from_published(state: Mapping[str, Tensor], config: StableAudioConfig, path: Path) -> StableAudioDiT:
    """The transformer of a published checkpoint; other parts of a whole model (conditioner, autoencoder) are left out.

    Raises ConfigError where weights are missing, unknown, or of another shape than `config` says.
    """
    anchors = [name for name in state if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise ConfigError(
            f"{path}: {len(anchors)} tensors are called {ANCHOR}, one would be; give a checkpoint of a DiT"
        )
    prefix = anchors[0].removesuffix(ANCHOR)
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    with torch.device("meta"):
        dit = StableAudioDiT(config)
    check_state(
        weights, published_shapes(dit), path, "give the sizes it was trained with; only input concatenation is read"
    )
    statistics = {"mean": torch.zeros(config.condition_dim), "scale": torch.ones(config.condition_dim)}
    if config.unconditional:
        statistics["nothing"] = torch.zeros(config.condition_dim)
    dit.load_state_dict({**statistics, **{name: value.float() for name, value in weights.items()}}, assign=True)
    return dit.eval().requires_grad_(False)


def read_config(path: Path) -> StableAudioConfig:
    """From a model's JSON as stable-audio-tools has it (`model.diffusion.config`, or that section alone).

    Raises ConfigError for one that cannot be read, or that uses options that are not supported.
    """
    values = read_published_json(path)
    model = values.get("model", values)
    diffusion = model.get("diffusion", model) if isinstance(model, dict) else values
    section = diffusion.get("config", diffusion) if isinstance(diffusion, dict) else values
    names = {
        "io_channels": "latent_dim", "embed_dim": "width", "depth": "blocks", "num_heads": "heads",
        "input_concat_dim": "condition_dim",
    }  # fmt: skip
    # Options that are not supported, and the values with which they have no effect.
    unused: dict[str, tuple[Any, ...]] = {
        "cond_token_dim": (0,), "global_cond_dim": (0,), "prepend_cond_dim": (0,), "patch_size": (1,),
        "transformer_type": ("continuous_transformer",), "global_cond_type": ("prepend",), "timestep_cond_type": ("global",),
        "project_cond_tokens": (True, False), "project_global_cond": (True, False), "causal": (False,), "conformer": (False,),
        "num_memory_tokens": (0,), "rotary_pos_emb": (True,),
    }  # fmt: skip
    settings: dict[str, Any] = {"kind": "stable-audio", "source": path.name}
    for name, value in section.items():
        if name in names:
            settings[names[name]] = value
        elif name == "diffusion_objective" and value in OBJECTIVES:
            settings["objective"] = OBJECTIVES[value]
        elif not any(type(value) is type(off) and value == off for off in unused.get(name, ())):
            raise ConfigError(f"{path}: {name} = {value!r} is not read here; only a DiT with input concatenation is")
    absent = [name for name in names if names[name] not in settings]
    if absent:
        raise ConfigError(f"{path}: tells no {', '.join(absent)}; it is not the JSON of a DiT with input concatenation")
    return parse(StableAudioConfig, settings, str(path))


def read_published(checkpoint: Path, config: StableAudioConfig) -> StableAudioDiT:
    """The DiT of a published checkpoint: safetensors, or a pickle of nothing but tensors. Raises ConfigError."""
    return from_published(read_checkpoint(checkpoint), config, checkpoint)
