"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864): pairs of channels of queries and keys turn with position.

Which channels make a pair is fixed by the weights that were trained with it: the two halves of a head (i with
i + head_dim / 2; tokenizer and renderer), or neighbours (2 i with 2 i + 1; BS-RoFormer, ours and the published one).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Tables = tuple[Tensor, Tensor]
"""Cosines and sines of each position, each `[frames, 1, head_dim / 2]`."""


def speeds(head_dim: int, base: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Radians a position for each pair of channels: base^(-2 i / head_dim), float32 `[head_dim / 2]`."""
    return base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)


def angles_of(frames: int, speeds: Tensor) -> Tensor:
    """Radians of each position and pair: `[frames, pairs]`."""
    return torch.arange(frames, device=speeds.device, dtype=speeds.dtype)[:, None] * speeds


def half_tables(frames: int, head_dim: int, device: torch.device, dtype: torch.dtype, base: float = 10_000.0) -> Tables:
    """What `turn_halves` needs for `frames` positions, rounded to `dtype` once."""
    angles = angles_of(frames, speeds(head_dim, base, device))[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turn_halves(x: Tensor, tables: Tables) -> Tensor:
    """Turn the two halves of the last axis of `x [batch, frames, n, head_dim]` by their positions."""
    cos, sin = tables
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


class Rotary(nn.Module):
    """`half_tables` that are kept and grow on demand. No weights."""

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        self._tables: Tables | None = None

    def tables(self, frames: int, device: torch.device, dtype: torch.dtype) -> Tables:
        """cos and sin, each `[frames, 1, head_dim / 2]`."""
        held = self._tables
        if held is None or held[0].shape[0] < frames or held[0].device != device or held[0].dtype != dtype:
            with torch.inference_mode(False):  # tensors of inference mode cannot serve a training step later
                held = self._tables = half_tables(max(frames, 256), self.head_dim, device, dtype, self.base)
        return held[0][:frames], held[1][:frames]


def neighbour_turns(frames: int, speeds: Tensor) -> Tensor:
    """What `turn_neighbours` needs: unit complex numbers `[frames, head_dim / 2]` for the given `speeds [head_dim / 2]`."""
    angles = angles_of(frames, speeds)
    return torch.polar(torch.ones_like(angles), angles)


def turn_neighbours(x: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last axis: `x [..., head_dim]`, `turns [..., head_dim / 2]` that broadcasts to its pairs.

    What comes out has the type of `x`; there are no complex numbers of half precision, so those turn in single.
    """
    single = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(single.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
