"""One code out of logits: temperature, top-k, top-p, and draws that belong to a seed, a stream, a frame and a code.

A draw is a hash, not the next number of a generator: it is the same in a batch or alone, with or without a cache, on any
device, and whatever was drawn before. A code is taken by the Gumbel-max rule (the largest of logit / temperature + noise), so
that a rounding difference of the logits can only matter where two codes are as near as that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.errors import ConfigError
from duotok.random import item_seed, shifted, splitmix64


@dataclass(frozen=True)
class TokenSampling:
    """temperature: 0 is the model's first guess, 1 the model as it is; top_k: only the k likeliest codes, 0 is all; top_p: of
    those, only the likeliest ones that together have this probability, 1 is all.

    By default nothing is cut: over 32,768 codes the chances of sounds lie on thousands of codes and that of silence on one, so a
    small k or p makes silence, and sorting so many codes takes as long as a small model itself.

    Raises ConfigError for values that mean nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature {self.temperature:g} must be 0 (always the first guess) or more")
        if self.top_k < 0:
            raise ConfigError(f"top_k {self.top_k} must be 1 or more, or 0 for all codes")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p:g} must be above 0 and at most 1")


def kept(logits: Tensor, sampling: TokenSampling) -> tuple[Tensor, Tensor]:
    """What may be drawn: (log-probabilities but for a constant, -inf where top-p cuts; which codes these are), both `[rows, k]`.

    logits: `[rows, V]`. Temperature first, then top-k, then top-p of what is left. The temperature must be above 0.
    """
    rows, size = logits.shape
    some = 0 < sampling.top_k < size
    if not some and sampling.top_p == 1:
        codes = torch.arange(size, device=logits.device).expand(rows, size)
        return logits.double() / sampling.temperature, codes
    values, codes = logits.topk(sampling.top_k) if some else logits.sort(dim=-1, descending=True, stable=True)
    scaled = values.double() / sampling.temperature
    if sampling.top_p < 1:
        chances = scaled.softmax(-1)
        before = chances.cumsum(-1) - chances
        before[:, 0] = 0  # the likeliest always stays
        scaled = scaled.masked_fill(before >= sampling.top_p, -math.inf)
    return scaled, codes


def choose(logits: Tensor, sampling: TokenSampling, keys: Sequence[int]) -> Tensor:
    """One code a row, int64 `[rows]`, from logits `[rows, V]`; keys: of each row's draws, from `Draws`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled, codes = kept(logits, sampling)
    noise = -torch.log(-torch.log(uniform(keys, codes)))
    return codes.gather(1, (scaled + noise).argmax(-1, keepdim=True))[:, 0]


def chance(logits: Tensor, which: int, sampling: TokenSampling) -> Tensor:
    """The probability of class `which` under `sampling`, float64 `[rows]`: 0 or 1 at temperature 0."""
    if sampling.temperature == 0:
        return (logits.argmax(-1) == which).double()
    scaled, codes = kept(logits, sampling)
    return (scaled.softmax(-1) * (codes == which)).sum(-1)


@dataclass(frozen=True)
class Draws:
    """Keys of all draws, one row for each seed. Every name (a stream's codebook, "end") draws from a seed of its own."""

    seeds: tuple[int, ...]

    def keys(self, name: str, frame: int) -> list[int]:
        """One key a row for the draws of one frame."""
        own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return [item_seed(seed, own, frame) for seed in self.seeds]


def uniform(keys: Sequence[int], indices: Tensor) -> Tensor:
    """Number `indices` of the sequence that belongs to each row's key: float64 in (0, 1), as `indices` `[rows, n]`.

    That is splitmix64 from the key on; int64 arithmetic, so it is the same on every device.
    """
    key = torch.tensor(list(keys), device=indices.device)[:, None]
    return (shifted(splitmix64(key, indices), 12).double() + 0.5) / (1 << 52)
