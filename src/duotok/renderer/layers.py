"""The layers of stable-audio-tools' transformer, of which its DiT and the attention of the ear-VAE's first version are made.

Modules are nested as the names of published weights demand. What is published as an option and used by neither (other norms,
cross-attention, adaLN, memory tokens) is not here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.nn.attention import softmax_attention
from duotok.nn.rope import angles_of, speeds, turn_halves


class Norm(nn.Module):
    """Layer norm. `beta` is fixed in the published code but is still stored in its checkpoints."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class GatedLinear(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.silu(gate)
        return gated


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is a layer without effect in the published list.
        self.ff = nn.Sequential(GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ff(x)
        return out


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions as stable-audio-tools has them: `x [..., frames, head_dim]`, `angles [frames, turned / 2]`.

    The first `turned` channels are turned as two halves, the others stay as they are.
    """
    width = 2 * angles.shape[-1]
    part = turn_halves(x[..., :width].float(), (angles.cos(), angles.sin())).to(x.dtype)
    return torch.cat([part, x[..., width:]], dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, frames, width = x.shape
        q, k, v = self.to_qkv(x).view(batch, frames, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = softmax_attention(turned(q, angles), turned(k, angles), v, mask)
        out: Tensor = self.to_out(y.transpose(1, 2).reshape(batch, frames, width))
        return out


class Layer(nn.Module):
    """A layer of stable-audio-tools' transformer: attention and a gated feed-forward, each behind a norm, residual."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.pre_norm = Norm(width)
        self.self_attn = Attention(width, head_dim)
        self.ff_norm = Norm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.pre_norm(x), angles, mask)
        out: Tensor = x + self.ff(self.ff_norm(x))
        return out


class Rotary(nn.Module):
    """Angles of rotary positions, `[frames, dim / 2]`; the frequencies are a buffer of published checkpoints."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        dim = max(head_dim // 2, 32)
        self.register_buffer("inv_freq", speeds(dim))

    def forward(self, frames: int) -> Tensor:
        return angles_of(frames, self.inv_freq.float())


class Transformer(nn.Module):
    """`[batch, frames, width in]` to `[batch, frames, width out]`: layers with rotary positions, projections where widths differ."""

    def __init__(
        self, width: int, head_dim: int, depth: int, width_in: int | None = None, width_out: int | None = None
    ) -> None:
        super().__init__()
        self.project_in = nn.Identity() if width_in is None else nn.Linear(width_in, width, bias=False)
        self.project_out = nn.Identity() if width_out is None else nn.Linear(width, width_out, bias=False)
        self.rotary_pos_emb = Rotary(head_dim)
        self.layers = nn.ModuleList(Layer(width, head_dim) for _ in range(depth))

    def silence(self) -> None:
        """Initialise every layer so that it adds nothing, as the published code does."""
        for name, parameter in self.layers.named_parameters():
            if "self_attn.to_out." in name or "ff.ff.2." in name:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, before: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """before: `[batch, n, width]`, prepended to the frames; it is part of the output as well.

        mask: `[batch, 1, 1, n + frames]`, true where a frame may be seen; None where all may.
        """
        x = self.project_in(x)
        x = x if before is None else torch.cat([before, x], dim=1)
        angles = self.rotary_pos_emb(x.shape[1])
        for layer in self.layers:
            x = layer(x, angles, mask)
        out: Tensor = self.project_out(x)
        return out
