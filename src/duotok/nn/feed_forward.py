"""The feed-forward of BS-RoFormer, ours and the published one: the same layers at the same numbers."""

from __future__ import annotations

from torch import nn


def normed_feed_forward(norm: nn.Module, width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Norm, linear, GELU, dropout, linear, dropout over `[..., width]`. Weights are those of numbers 0, 1 and 4."""
    return nn.Sequential(
        norm,
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )
