"""Self-attention of several heads with rotary positions, as functions: the layers with the weights are the models'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.nn.rope import Tables, turn_halves, turn_neighbours

LARGE = 24_576  # keys times head_dim from which half precision is the faster one on a CPU


def rotated_heads(qkv: Tensor, heads: int, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values `[batch, heads, frames, head_dim]` out of `qkv [batch, frames, 3 width]`; the first two turned."""
    batch, frames, triple = qkv.shape
    qkv = qkv.view(batch, frames, 3 * heads, triple // (3 * heads))
    q, k = turn_halves(qkv[:, :, : 2 * heads], tables).transpose(1, 2).chunk(2, dim=1)
    return q, k, qkv[:, :, 2 * heads :].transpose(1, 2)


def joined_heads(y: Tensor) -> Tensor:
    """`[batch, heads, frames, head_dim]` to `[batch, frames, width]`."""
    return y.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention `[batch, heads, queries, head_dim]` under `mask`, by the kernel that is fast there.

    With short sequences and small heads torch's kernel for CPUs goes backwards in half precision two to eight times as slowly as in
    float32, so a training on a CPU under autocast attends in float32 there (`python -m benchmarks.attention`).
    """
    learns = torch.is_grad_enabled() and q.requires_grad
    if q.device.type == "cpu" and learns and torch.is_autocast_enabled("cpu") and k.shape[2] * k.shape[3] < LARGE:
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, dropout_p=dropout)
        return y.to(torch.get_autocast_dtype("cpu"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int | None) -> Tensor:
    """Attention `[batch, heads, frames, head_dim]` under `mask`; with a window its cost is linear in the frames.

    Queries go in chunks of twice the window and meet only the keys that the mask may leave them; a GPU does a short
    piece sooner in one go.
    """
    frames = q.shape[2]
    if mask is None or window is None or frames <= (1024 if q.is_cuda else 3 * window):
        return softmax_attention(q, k, v, mask)
    chunks = []
    for start in range(0, frames, 2 * window):
        stop = min(frames, start + 2 * window)
        keys = slice(max(0, start - window), min(frames, stop + window))
        part = mask[:, :, start:stop, keys]
        chunks.append(softmax_attention(q[:, :, start:stop], k[:, :, keys], v[:, :, keys], part))
    return torch.cat(chunks, dim=2)


def gated_attention(qkv: Tensor, gates: Tensor, turns: Tensor) -> Tensor:
    """BS-RoFormer's attention (arXiv 2309.02612, as published code has it): each head is scaled by the sigmoid of its gate.

    `qkv [batch, length, 3 inner]`, `gates [batch, length, heads]`, `turns [length, head_dim / 2]` (`neighbour_turns`) to
    `[batch, length, inner]`, which is not projected yet.
    """
    batch, length, heads = gates.shape
    qkv = qkv.view(batch, length, 3, heads, -1)
    queries, keys = turn_neighbours(qkv[:, :, :2], turns[:, None, None]).transpose(1, 3).unbind(2)
    attended = softmax_attention(queries, keys, qkv[:, :, 2].transpose(1, 2)).transpose(1, 2)
    return (attended * gates.sigmoid().unsqueeze(-1)).flatten(-2)
