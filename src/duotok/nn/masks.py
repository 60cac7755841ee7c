"""Which frames of a padded batch are real, and which a query may see."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


@overload
def frame_mask(lengths: Tensor, frames: int) -> Tensor: ...


@overload
def frame_mask(lengths: Tensor | None, frames: int) -> Tensor | None: ...


def frame_mask(lengths: Tensor | None, frames: int) -> Tensor | None:
    """`[batch, frames]`, true inside each item's length; None (no padding anywhere) stays None."""
    if lengths is None:
        return None
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def silence_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero what lies beyond each item's length: `x [batch, frames, ...]`, `mask [batch, frames]`."""
    if mask is None:
        return x
    return x.masked_fill(~mask.reshape(*mask.shape, *([1] * (x.dim() - 2))), 0.0)


def attention_mask(frames: int, window: int | None, valid: Tensor | None, device: torch.device) -> Tensor | None:
    """True where a query may see a key, `[batch or 1, 1, frames, frames]`; None when every pair may.

    window: frames seen on each side, None for all; valid: a `frame_mask`. A padded query sees itself, so that no row is
    empty (its output is zeroed later).
    """
    if (window is None or window >= frames - 1) and valid is None:
        return None
    position = torch.arange(frames, device=device)
    distance = (position[:, None] - position[None, :]).abs()
    mask = torch.ones_like(distance, dtype=torch.bool) if window is None else distance <= window
    mask = mask[None, None]
    if valid is not None:
        mask = mask & valid[:, None, None, :] | (distance == 0)[None, None]
    return mask
