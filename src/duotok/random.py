"""Random draws that belong to the items of a batch, not to the batch.

Item i of a step draws from its own seed, exactly as many rows as it is long: the same numbers whatever it is padded to,
whichever process or device it is on, and however the batch is cut. Number n of an item is a hash of its seed and n
(splitmix64), so that a whole batch is drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def item_seed(seed: int, step: int, item: int) -> int:
    """A 63-bit seed for one item of one step: splitmix64 of the three numbers."""
    value = 0
    for part in (seed, step, item):
        value = (value ^ (part & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1


_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_BITS = 24


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _hashed(x: Tensor) -> Tensor:
    """splitmix64's finalizer on int64, which wraps around as it should."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


class ItemRandom:
    """Draws for the items of one batch. Each call goes on where the item's last draw ended.

    seeds: one for each item, from `item_seed`.
    """

    def __init__(self, seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> None:
        values = seeds if isinstance(seeds, Tensor) else torch.tensor(list(seeds), dtype=torch.int64)
        self.device = torch.device(device)
        self.seeds = values.to(self.device)
        self.drawn = torch.zeros_like(self.seeds)

    def __len__(self) -> int:
        return len(self.seeds)

    def _bits(self, rows: int, shape: tuple[int, ...], lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """64 random bits for each number `[batch, rows, *shape]`, and which rows are an item's own (None: all)."""
        width = math.prod(shape)
        places = self.drawn[:, None] + torch.arange(rows * width, device=self.device)
        bits = _hashed(_hashed(self.seeds)[:, None] + (places + 1) * _GAMMA).view(len(self), rows, *shape)
        if lengths is None:
            self.drawn = self.drawn + rows * width
            return bits, None
        lengths = lengths.to(self.device)
        self.drawn = self.drawn + lengths * width
        inside = torch.arange(rows, device=self.device) < lengths[:, None]
        return bits, inside.view(len(self), rows, *(1 for _ in shape))

    def normal(self, rows: int, *shape: int, lengths: Tensor | None = None) -> Tensor:
        """Standard normal `[batch, rows, *shape]`; item i draws `lengths[i]` rows, the rest is zero."""
        bits, inside = self._bits(rows, shape, lengths)
        radius = (_unit(_shifted(bits, 64 - _BITS)) + 2.0**-_BITS).log().mul(-2).clamp_min(0).sqrt()
        out = radius * (2 * math.pi * _unit(bits & ((1 << _BITS) - 1))).cos()  # Box and Muller
        return out if inside is None else out * inside

    def uniform(self, rows: int, *shape: int, lengths: Tensor | None = None) -> Tensor:
        """Uniform in [0, 1), otherwise as `normal`."""
        bits, inside = self._bits(rows, shape, lengths)
        out = _unit(_shifted(bits, 64 - _BITS))
        return out if inside is None else out * inside

    def integers(self, high: Tensor) -> Tensor:
        """One integer in [0, high[i]) for each item: `[batch]`, int64."""
        bits, _ = self._bits(1, (), None)
        return _shifted(bits[:, 0], 1) % high.to(self.device).clamp_min(1)


def _unit(value: Tensor) -> Tensor:
    """Integers below 2^24 as float32 in [0, 1), exactly."""
    return value.float() * 2.0**-_BITS
