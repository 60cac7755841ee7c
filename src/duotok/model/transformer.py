"""Pre-norm Transformer blocks with rotary positions; an item never attends to padding.

The paper says "Transformer block" and no more (3.1, figure of stage 1); 24 x 1024 / 16 heads / 4096 is about 302 M.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.nn.attention import joined_heads, rotated_heads, softmax_attention
from duotok.nn.masks import frame_mask, silence_padding
from duotok.nn.precision import stream_dtype
from duotok.nn.rope import Rotary, Tables


class Attention(nn.Module):
    """Bidirectional self-attention over the valid frames."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, tables: Tables, keys: Tensor | None) -> Tensor:
        """`x [batch, frames, width]`; `keys [batch, 1, 1, frames]` true where a key may be seen, None for all."""
        q, k, v = rotated_heads(self.qkv(x), self.heads, tables)
        y = softmax_attention(q, k, v, keys, self.dropout if self.training else 0.0)
        out: Tensor = self.out(joined_heads(y))
        return out


class FeedForward(nn.Module):
    """Two linear layers with GELU, or gated with SiLU (SwiGLU, the gate first) at the same hidden width."""

    def __init__(self, width: int, hidden: int, activation: Literal["gelu", "swiglu"]) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.up = nn.Linear(width, 2 * hidden if self.gated else hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.gated:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        else:
            h = F.gelu(h)
        out: Tensor = self.down(h)
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Literal["gelu", "swiglu"], dropout: float, depth: int
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, hidden, activation)
        self.drop = nn.Dropout(dropout)
        # The residual sum of `depth` blocks should not grow with depth (GPT-2's scaling).
        for layer in (self.attention.out, self.ffn.down):
            with torch.no_grad():
                layer.weight.mul_(1.0 / math.sqrt(2.0 * max(1, depth)))

    def forward(self, x: Tensor, tables: Tables, keys: Tensor | None) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), tables, keys))
        out: Tensor = x + self.drop(self.ffn(self.ffn_norm(x)))
        return out


class Blocks(nn.Module):
    """A run of blocks: `[batch, frames, width]` to the same; frames beyond an item's length come out as zeros.

    `depth` is that of the whole encoder, of which this run may be a part; it sets the scale of the initial weights.
    """

    def __init__(
        self,
        n_blocks: int,
        width: int,
        heads: int,
        hidden: int,
        *,
        activation: Literal["gelu", "swiglu"] = "gelu",
        dropout: float = 0.0,
        rope_base: float = 10_000.0,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        depth = n_blocks if depth is None else depth
        self.rotary = Rotary(width // heads, rope_base)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, activation, dropout, depth) for _ in range(n_blocks))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        mask = frame_mask(lengths, x.shape[1])
        keys = None if mask is None else mask[:, None, None, :]
        stream, product = stream_dtype(x)
        x = x.to(stream)
        tables = self.rotary.tables(x.shape[1], x.device, product)
        for block in self.blocks:
            x = block(x, tables, keys)
        return silence_padding(x, mask)
