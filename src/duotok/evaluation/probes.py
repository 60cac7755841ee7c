"""Probes of tagging: small networks that read frozen embeddings and tell tags (paper, B.2).

    conformer   the paper's text: a light Conformer (arXiv 2005.08100) from scratch, then a linear head
    se          the public evaluation code's (AudioCodecBench, arXiv 2509.02349), whose figures the paper's Table 1 repeats:
                squeeze-and-excitation over time, depthwise separable convolution over frames, twice; a linear layer to a
                sixteenth of the width, everything flattened, a linear head
    linear      a linear head on the mean and the deviation of each channel over time: what can be read without learning
                features

All take standardised embeddings `[pieces, frames, width]` and give logits `[pieces, tags]`. Sizes are the same for all
tokenizers; only the first layer has the width of the embeddings (in `se`, all that the public code ties to width and frames).
The paper gives no size of its Conformer; ours is in `ProbeConfig`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config
from duotok.errors import ConfigError
from duotok.nn.attention import joined_heads, rotated_heads
from duotok.nn.rope import half_tables

ProbeKind = Literal["conformer", "se", "linear"]
PROBES: tuple[ProbeKind, ...] = ("conformer", "se", "linear")
REDUCTION = 16


class ProbeConfig(Config):
    """Shape of a probe; the defaults of `conformer` are ours, those of `se` the public code's."""

    kind: ProbeKind = "conformer"
    width: int = Field(default=144, gt=0, description="of the Conformer")
    blocks: int = Field(default=2, gt=0, description="of the Conformer")
    heads: int = Field(default=4, gt=0, description="of the Conformer")
    kernel: int = Field(default=31, gt=0, description="frames of the Conformer's convolution; odd")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of the Conformer")

    @model_validator(mode="after")
    def _fits(self) -> ProbeConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self


class LinearProbe(nn.Module):
    """A linear head on mean and deviation over time."""

    def __init__(self, width: int, tags: int) -> None:
        super().__init__()
        self.head = nn.Linear(2 * width, tags)

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.var(1, correction=0).clamp_min(1e-8).sqrt()
        logits: Tensor = self.head(torch.cat([x.mean(1), deviation], dim=-1))
        return logits


class SqueezeExcitation(nn.Module):
    """Each frame is scaled by a gate that sees the mean of every frame: `[pieces, frames, width]` to the same."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.down = nn.Linear(frames, max(1, frames // REDUCTION), bias=False)
        self.up = nn.Linear(max(1, frames // REDUCTION), frames, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.up(F.relu(self.down(x.mean(-1)))))
        return x * gates[..., None]


class SEProbe(nn.Module):
    """The public code's probe, which takes frames as channels."""

    def __init__(self, width: int, frames: int, tags: int) -> None:
        super().__init__()
        if frames < 4 or width < REDUCTION:
            raise ConfigError(
                f"probe se: {frames} frames of {width} numbers; it needs 4 frames and {REDUCTION} numbers; take the conformer"
            )
        layers: list[nn.Module] = []
        for count in (frames, frames // 2):
            layers += [SqueezeExcitation(count) for _ in range(3)]
            layers += [
                nn.Conv1d(count, count, 3, padding=1, groups=count, bias=False),
                nn.Conv1d(count, count // 2, 1, bias=False),
            ]
        self.body = nn.Sequential(*layers)
        self.narrow = nn.Linear(width, width // REDUCTION)
        self.head = nn.Linear(frames // 2 // 2 * (width // REDUCTION), tags)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.narrow(self.body(x)).flatten(1))
        return logits


class _HalfStep(nn.Sequential):
    """Half of a feed-forward, as a Conformer block has it before and after."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (arXiv 2005.08100, figure 1), rotary positions."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.first, self.last = _HalfStep(width, config.dropout), _HalfStep(width, config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.convolution_norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding="same", groups=width)
        # One norm for a piece and not for a batch: a piece's tags do not depend on its company.
        self.depthwise_norm = nn.GroupNorm(1, width)
        self.pointwise = nn.Linear(width, width)
        self.drop = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        tables = half_tables(x.shape[1], x.shape[2] // self.heads, x.device, x.dtype)
        q, k, v = rotated_heads(self.qkv(self.attention_norm(x)), self.heads, tables)
        x = x + self.drop(self.attended(joined_heads(F.scaled_dot_product_attention(q, k, v))))
        y = F.glu(self.gate(self.convolution_norm(x))).transpose(1, 2)
        y = F.silu(self.depthwise_norm(self.depthwise(y))).transpose(1, 2)
        x = x + self.drop(self.pointwise(y))
        out: Tensor = self.norm(x + 0.5 * self.last(x))
        return out


class ConformerProbe(nn.Module):
    """A linear layer to the Conformer's width, its blocks, the mean over time, a linear head."""

    def __init__(self, config: ProbeConfig, width: int, tags: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, config.width)
        self.blocks = nn.Sequential(*(ConformerBlock(config) for _ in range(config.blocks)))
        self.head = nn.Linear(config.width, tags)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.enter(x)).mean(1))
        return logits


def make_probe(config: ProbeConfig, width: int, frames: int, tags: int) -> nn.Module:
    """A probe with random weights for pieces `[frames, width]`. Raises ConfigError for pieces that `se` cannot read."""
    if config.kind == "linear":
        return LinearProbe(width, tags)
    return SEProbe(width, frames, tags) if config.kind == "se" else ConformerProbe(config, width, tags)
