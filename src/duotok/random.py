"""Random draws that belong to the items of a batch, not to the batch.

Item i of a step draws from its own seed, exactly as many rows as it is long: the same numbers whatever it is padded to,
whichever process or device it is on, and however the batch is cut. Number n of an item is a hash of its seed and n
(splitmix64), so that a whole batch is drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = TypeVar("Numbers", int, NDArray[np.uint64], Tensor)
"""64 bits each: an int from 0 to 2^64 - 1, uint64, or int64 (torch has little arithmetic for uint64; the bits are the same)."""

GAMMA = 0x9E3779B97F4A7C15
"""How far splitmix64's state moves from one number to the next: 2^64 over the golden ratio, odd."""
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_ALL = (1 << 64) - 1


def shifted(value: Numbers, bits: int) -> Numbers:
    """A logical shift to the right (torch's own repeats the sign)."""
    if isinstance(value, Tensor):
        return (value >> bits) & ((1 << (64 - bits)) - 1)
    return value >> (bits if isinstance(value, int) else np.uint64(bits))


def _times(value: Numbers, factor: int) -> Numbers:
    """The lower 64 bits of a product."""
    if isinstance(value, Tensor):
        return value * (factor - (1 << 64))
    return value * factor & _ALL if isinstance(value, int) else value * np.uint64(factor)


def mix64(value: Numbers) -> Numbers:
    """splitmix64's mixing of 64 bits (Stafford's variant 13): one to one, and every bit in changes about half of those out."""
    for bits, factor in _FACTORS:
        value = _times(value ^ shifted(value, bits), factor)
    return value ^ shifted(value, 31)


def splitmix64(state: Numbers, number: Tensor | int = 0) -> Numbers:
    """Number `number` of the sequence that begins at a state (Steele, Lea and Flood 2014, SplittableRandom).

    The same bits for int, uint64 and int64 (see `Numbers`), so on every device. number: a tensor with a tensor of states.
    """
    if isinstance(state, Tensor):
        return mix64(state + (number + 1) * (GAMMA - (1 << 64)))
    assert isinstance(number, int)
    step = (number + 1) * GAMMA & _ALL
    return mix64(state + step & _ALL if isinstance(state, int) else state + np.uint64(step))


def item_seed(seed: int, step: int, item: int) -> int:
    """A 63-bit seed for one item of one step: splitmix64 of the three numbers."""
    value = 0
    for part in (seed, step, item):
        value = splitmix64(value ^ (part & _ALL))
    return value >> 1


_BITS = 24


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
        bits = splitmix64(mix64(self.seeds)[:, None], places).view(len(self), rows, *shape)
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
        radius = (_unit(shifted(bits, 64 - _BITS)) + 2.0**-_BITS).log().mul(-2).clamp_min(0).sqrt()
        out = radius * (2 * math.pi * _unit(bits & ((1 << _BITS) - 1))).cos()  # Box and Muller
        return out if inside is None else out * inside

    def uniform(self, rows: int, *shape: int, lengths: Tensor | None = None) -> Tensor:
        """Uniform in [0, 1), otherwise as `normal`."""
        bits, inside = self._bits(rows, shape, lengths)
        out = _unit(shifted(bits, 64 - _BITS))
        return out if inside is None else out * inside

    def integers(self, high: Tensor) -> Tensor:
        """One integer in [0, high[i]) for each item: `[batch]`, int64."""
        bits, _ = self._bits(1, (), None)
        return shifted(bits[:, 0], 1) % high.to(self.device).clamp_min(1)


def _unit(value: Tensor) -> Tensor:
    """Integers below 2^24 as float32 in [0, 1), exactly."""
    return value.float() * 2.0**-_BITS
