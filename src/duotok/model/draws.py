"""The model's random draws: each item of a batch from its own generator (ItemRandom), so that neither padding nor the split
over processes changes them; or the whole batch at once, from a generator or (None) torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.random import ItemRandom

Random = ItemRandom | torch.Generator | None


def uniform(random: Random, shape: tuple[int, ...], lengths: Tensor | None, device: torch.device | None) -> Tensor:
    """Uniform in [0, 1), `shape` = `[batch, rows, ...]`; with ItemRandom only `lengths[i]` rows, the rest is zero."""
    if isinstance(random, ItemRandom):
        return random.uniform(*shape[1:], lengths=lengths).to(device)
    return torch.rand(shape, device=device, generator=random)


def normal(random: Random, shape: tuple[int, ...], lengths: Tensor | None, device: torch.device | None) -> Tensor:
    """Standard normal, otherwise as `uniform`."""
    if isinstance(random, ItemRandom):
        return random.normal(*shape[1:], lengths=lengths).to(device)
    return torch.randn(shape, device=device, generator=random)


def integers(random: Random, high: Tensor) -> Tensor:
    """An integer in [0, high[i]) for each item: `[batch]`, int64."""
    if isinstance(random, ItemRandom):
        return random.integers(high).to(high.device)
    drawn = (torch.rand(high.shape, device=high.device, generator=random) * high).long()
    return torch.minimum(drawn, (high - 1).clamp_min(0))
