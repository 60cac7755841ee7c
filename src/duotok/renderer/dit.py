"""The diffusion transformer of one track: code vectors at 25 Hz condition autoencoder latents at 50 Hz (or 25).

Paper section 3.4 and Table 8 (400M for each track, built on stable-audio-tools); the condition enters by concatenation
with the noisy latents. Modulation is one shared MLP of the timestep plus learned offsets for each block (adaLN-single,
PixArt-alpha, arXiv 2310.00426, section 2.3). The feed-forward carries a short depthwise convolution over time, so that
local structure need not be learned by attention.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config
from duotok.nn.attention import attend, joined_heads, rotated_heads
from duotok.nn.masks import attention_mask, frame_mask, silence_padding
from duotok.nn.precision import stream_dtype
from duotok.nn.rope import Tables, half_tables
from duotok.renderer.contract import LatentDiffusion
from duotok.renderer.diffusion import VelocityModel


class DiTConfig(Config):
    """Shape of a DiT. The defaults are a small one (2.5M parameters); the mini recipe has its own."""

    kind: Literal["duotok"] = "duotok"
    latent_dim: int = Field(default=64, gt=0)
    bass_latents: int = Field(
        default=0,
        ge=0,
        description="of latent_dim, the last ones, which an autoencoder has for basses: blocks of their own tell them, behind the others, "
        "which do not see them; 0 = none",
    )
    bass_blocks: int = Field(default=2, gt=0, description="these blocks, 128 wide")
    latents_per_frame: Literal[1, 2] = Field(
        default=2,
        description="latent frames of a token frame (40 ms): 2, or 1 for an autoencoder of 25 latents a second",
    )
    condition: Literal["code", "proj_out"] = Field(
        default="code",
        description="what stands for a token: its code vector, or proj out of it (the tokenizer's width)",
    )
    condition_dim: int = Field(default=16, gt=0, description="width of that vector")
    condition_width: int = Field(default=64, gt=0, description="width of the condition beside the noisy latents")
    condition_kernel: int = Field(default=5, gt=0, description="token frames the condition is convolved over; odd")
    width: int = Field(default=192, gt=0)
    heads: int = Field(default=6, gt=0)
    blocks: int = Field(default=6, gt=0)
    ffn_ratio: float = Field(default=3.0, gt=0)
    gated: bool = Field(default=False, description="gated feed-forward (SwiGLU), as in stable-audio-tools")
    conv_kernel: int = Field(default=7, gt=0, description="latent frames of the depthwise convolution; odd")
    time_dim: int = Field(default=128, gt=0, description="width of the timestep features and their MLP")
    attention_window: int | None = Field(default=64, gt=0, description="latent frames seen on each side; null = all")
    objective: Literal["v", "flow"] = Field(default="v", description="what the output is; see diffusion.py")
    unconditional: bool = Field(
        default=False, description="it also learned without its condition, so that rendering can be guided"
    )
    guidance: float = Field(
        default=1.0,
        ge=0,
        description="classifier-free guidance of rendering (arXiv 2207.12598); 1 = none, and half the cost",
    )

    @model_validator(mode="after")
    def _fits(self) -> DiTConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        for name in ("condition_kernel", "conv_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} {getattr(self, name)} must be odd")
        if self.bass_latents >= self.latent_dim:
            raise ValueError(f"bass_latents {self.bass_latents} must be fewer than latent_dim {self.latent_dim}")
        if self.time_dim % 2:
            raise ValueError(f"time_dim {self.time_dim} must be even")
        if self.guidance != 1.0 and not self.unconditional:
            raise ValueError(
                f"guidance {self.guidance} needs a model that learned without its condition; train with unconditional: true"
            )
        return self

    @property
    def receptive_field(self) -> int | None:
        """Latent frames on each side that one evaluation can see; None when attention has no window."""
        if self.attention_window is None:
            return None
        condition = self.latents_per_frame * (self.condition_kernel // 2) + 1
        blocks = self.blocks + (self.bass_blocks if self.bass_latents else 0)
        return blocks * (self.attention_window + self.conv_kernel // 2) + condition


# Counted against stable-audio-tools: 1024 x 24 x 16 with input concatenation has 404.5-406.6M (docs/parameters.md, stage 4).
PAPER = DiTConfig(
    condition_width=512, width=1024, heads=16, blocks=24, ffn_ratio=4.0, gated=True, time_dim=256, attention_window=None
)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution over time, one filter for each channel: `x [batch, frames, width]`, `weight [width, 1, 1, kernel]`.

    On a CPU written as a 2-d convolution on the transposed view: its strides are channels-last, which is faster there
    than the 1-d convolution, forwards and backwards.
    """
    if x.is_cuda:
        weight = weight.squeeze(2)
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[2]).transpose(
            1, 2
        )
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight, bias, padding=(0, weight.shape[-1] // 2), groups=x.shape[2])
    return y.squeeze(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Fourier features of t in (0, 1), then an MLP: `[batch] -> [batch, time_dim]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        # Half a turn up to 32 turns over the unit interval: the noise level is smooth in t, finer features only alias.
        turns = torch.logspace(-1, 5, self.dim // 2, base=2.0, device=t.device, dtype=torch.float32)
        angles = 2 * math.pi * t.float()[:, None] * turns[None, :]
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        result: Tensor = self.mlp(features)
        return result


class Condition(nn.Module):
    """Code vectors to the condition of each latent frame: `[batch, frames, condition_dim] -> [batch, 2 frames, width]`.

    Each channel is brought to unit variance, and whatever their number (16 of a code vector, 1024 of the paper's proj out)
    mapped to `condition_width`: by a linear map, repeated for both latent frames of a token, plus a short convolution over
    tokens that speaks for each of the two on its own: a repeat alone cannot tell the first half of a token from the second.
    Where a token has one latent frame (`latents_per_frame`), the result is `[batch, frames, width]`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.condition_width
        self.register_buffer("mean", torch.zeros(config.condition_dim))
        self.register_buffer("scale", torch.ones(config.condition_dim))
        self.linear = nn.Linear(config.condition_dim, width)
        self.context = nn.Conv1d(config.condition_dim, width, config.condition_kernel, padding="same")
        self.per_frame = config.latents_per_frame
        self.phases = nn.Linear(width, self.per_frame * width)
        if config.unconditional:
            self.nothing = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: Tensor, valid: Tensor | None, dropped: Tensor | None = None) -> Tensor:
        """dropped: bool `[batch]`, items without a condition."""
        x = (vectors - self.mean) * self.scale
        x = silence_padding(x, valid)
        batch, frames, _ = x.shape
        local: Tensor = self.phases(F.silu(self.context(x.transpose(1, 2)).transpose(1, 2)))
        local = local.reshape(batch, self.per_frame * frames, -1)
        out = local + torch.repeat_interleave(self.linear(x), self.per_frame, dim=1)
        return out if dropped is None else torch.where(dropped[:, None, None], self.nothing.to(out.dtype), out)


class Block(nn.Module):
    """Windowed RoPE attention, then a feed-forward behind a depthwise convolution; both modulated and gated by time."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        inner = int(config.ffn_ratio * width)
        self.heads, self.gated, self.window = config.heads, config.gated, config.attention_window
        self.offsets = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(width, 1, 1, config.conv_kernel))
        self.conv_bias = nn.Parameter(torch.zeros(width))
        self.up = nn.Linear(width, 2 * inner if config.gated else inner)
        self.down = nn.Linear(inner, width)
        nn.init.normal_(self.conv_weight, std=0.3 / math.sqrt(config.conv_kernel))

    def attention(self, x: Tensor, mask: Tensor | None, tables: Tables) -> Tensor:
        q, k, v = rotated_heads(self.qkv(x), self.heads, tables)
        result: Tensor = self.attended(joined_heads(attend(q, k, v, mask, self.window)))
        return result

    def feed_forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        x = silence_padding(x, valid)
        x = self.up(x + depthwise(x, self.conv_weight, self.conv_bias))
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * F.silu(gate)
        else:
            x = F.gelu(x, approximate="tanh")
        result: Tensor = self.down(x)
        return result

    def forward(
        self, x: Tensor, modulation: Tensor, mask: Tensor | None, valid: Tensor | None, tables: Tables
    ) -> Tensor:
        parts = (modulation + self.offsets).unsqueeze(2).unbind(1)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        h = torch.addcmul(shift_a, F.layer_norm(x, x.shape[-1:]), 1 + scale_a)
        x = torch.addcmul(x, gate_a, self.attention(h, mask, tables))
        h = torch.addcmul(shift_f, F.layer_norm(x, x.shape[-1:]), 1 + scale_f)
        return torch.addcmul(x, gate_f, self.feed_forward(h, valid))


class BassHead(nn.Module):
    """The velocity of the latents for basses, from what the other blocks have made of the rest: all of it can stay as it is.

    Gates and output start at zero.
    """

    WIDTH, HEADS = 128, 4

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        shape = config.model_copy(update={"width": self.WIDTH, "heads": self.HEADS})
        self.enter = nn.Linear(config.width + config.bass_latents + config.condition_width, self.WIDTH)
        self.modulation = nn.Linear(config.time_dim, 6 * self.WIDTH)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(config.bass_blocks))
        self.norm = nn.LayerNorm(self.WIDTH)
        self.leave = nn.Linear(self.WIDTH, config.bass_latents)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
        """x: hidden features, noisy latents for basses and condition, side by side `[batch, latent_frames, ...]`; time `[batch, time_dim]`."""
        modulation = self.modulation(time).view(-1, 6, self.WIDTH)
        x = self.enter(x)
        tables = half_tables(x.shape[1], self.WIDTH // self.HEADS, x.device, stream_dtype(x)[1])
        for block in self.blocks:
            x = block(x, modulation, mask, valid, tables)
        v: Tensor = self.leave(self.norm(x))
        return v


class DiT(LatentDiffusion):
    """Noisy latents, time and code vectors to the velocity. Gates and output start at zero, so a new DiT returns 0."""

    config: DiTConfig

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time = TimeEmbedding(config.time_dim)
        self.modulation = nn.Linear(config.time_dim, 6 * width)
        self.condition = Condition(config)
        self.main_latents = config.latent_dim - config.bass_latents
        self.enter = nn.Linear(self.main_latents + config.condition_width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, self.main_latents)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.basses = BassHead(config) if config.bass_latents else None

    @property
    def receptive_field(self) -> int | None:
        """Latent frames on each side that one evaluation can see; None when attention has no window."""
        return self.config.receptive_field

    @torch.no_grad()
    def standardise(self, vectors: Tensor) -> None:
        """Take mean and spread from the code vectors in use `[n, condition_dim]`: the condition gets unit variance."""
        self.condition.mean.copy_(vectors.float().mean(0))
        self.condition.scale.copy_(1 / vectors.float().std(0).clamp_min(1e-4))

    def forward(
        self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """Velocity `[batch, latent_frames, latent_dim]`, zero beyond `lengths`.

        noisy: `[batch, latent_frames, latent_dim]`; t: `[batch]` in [0, 1], 1 is pure noise; condition:
        `[batch, frames, condition_dim]` with `latents_per_frame` latent frames a frame (the last may be half); lengths: real latent
        frames `[batch]`, None when all are; dropped: bool `[batch]`, items that are not told their condition.
        An item's result does not depend on its padding or on the rest of the
        batch. Raises ValueError when latents and condition are not of one length.
        """
        frames, tokens, per_frame = noisy.shape[1], condition.shape[1], self.config.latents_per_frame
        if tokens != -(-frames // per_frame):
            raise ValueError(f"{frames} latent frames need {-(-frames // per_frame)} code vectors, not {tokens}")
        valid = frame_mask(lengths, frames)
        token_valid = frame_mask(None if lengths is None else -(-lengths // per_frame), tokens)
        mask = attention_mask(frames, self.config.attention_window, valid, noisy.device)
        time = self.time(t)
        modulation = self.modulation(time).view(-1, 6, self.config.width)
        conditioned = self.condition(condition, token_valid, dropped)[:, :frames]
        x = self.enter(torch.cat([noisy[..., : self.main_latents], conditioned], dim=-1))
        tables = half_tables(frames, self.config.width // self.config.heads, x.device, stream_dtype(x)[1])
        for block in self.blocks:
            x = block(x, modulation, mask, valid, tables)
        hidden = self.norm(x)
        v: Tensor = self.leave(hidden)
        if self.basses is not None:
            heard = torch.cat([hidden, noisy[..., self.main_latents :], conditioned], dim=-1)
            v = torch.cat([v, self.basses(heard, time, mask, valid)], dim=-1)
        return silence_padding(v, valid)


def guided(dit: LatentDiffusion) -> VelocityModel:
    """The renderer with its guidance: v = v_nothing + guidance (v_condition - v_nothing), both in one batch."""
    scale = dit.config.guidance
    if scale == 1.0:
        return dit

    def velocity(noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        batch = len(noisy)
        dropped = torch.arange(2 * batch, device=noisy.device) >= batch
        lengths = None if lengths is None else lengths.repeat(2)
        both = dit(noisy.repeat(2, 1, 1), t.repeat(2), condition.repeat(2, 1, 1), lengths, dropped)
        conditioned, unconditioned = both.chunk(2)
        result: Tensor = unconditioned + scale * (conditioned - unconditioned)
        return result

    return velocity
