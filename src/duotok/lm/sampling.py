"""Sampling a code from logits: temperature, top-k, top-p, and random numbers that depend on seed, stream, frame and code.

A random number is a hash, not the next one of a generator: it is the same in a batch or alone, with or without a cache, on any
device, and whatever was drawn before. A code is chosen by the Gumbel-max rule (the largest of logit / temperature + noise), so
a rounding difference of the logits matters only where two codes are that close.
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
    """temperature: 0 takes the model's first guess, 1 its distribution; top_k: only the k likeliest codes, 0 is all; top_p: of
    those, only the likeliest ones that together have this probability, 1 is all.

    By default nothing is cut. With 32,768 codes the probability of sound is spread over thousands of codes and that of silence
    lies on one, so a small k or p gives silence; and sorting so many codes takes as long as a small model itself.

    Raises ConfigError for values out of range.
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


def allowed_codes(logits: Tensor, sampling: TokenSampling) -> tuple[Tensor, Tensor]:
    """(unnormalized log-probabilities, -inf where top-p cuts; the codes they belong to), both `[rows, k]`.

    logits: `[rows, V]`. Temperature first, then top-k, then top-p of the rest. The temperature must be above 0.
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
    """One code a row, int64 `[rows]`, from logits `[rows, V]`; keys: one a row, from `Draws`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled, codes = allowed_codes(logits, sampling)
    noise = -torch.log(-torch.log(uniform(keys, codes)))
    return codes.gather(1, (scaled + noise).argmax(-1, keepdim=True))[:, 0]


def chance(logits: Tensor, which: int, sampling: TokenSampling) -> Tensor:
    """The probability of class `which` under `sampling`, float64 `[rows]`: 0 or 1 at temperature 0."""
    if sampling.temperature == 0:
        return (logits.argmax(-1) == which).double()
    scaled, codes = allowed_codes(logits, sampling)
    return (scaled.softmax(-1) * (codes == which)).sum(-1)


@dataclass(frozen=True)
class Draws:
    """Keys of the random numbers, one row for each seed. Every name (a stream's codebook, "end") has keys of its own."""

    seeds: tuple[int, ...]

    def keys(self, name: str, frame: int) -> list[int]:
        """One key a row for the draws of one frame."""
        name_seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return [item_seed(seed, name_seed, frame) for seed in self.seeds]


def uniform(keys: Sequence[int], indices: Tensor) -> Tensor:
    """The random numbers at `indices` `[rows, n]` of the sequence of each row's key: float64 in (0, 1), of the same shape.

    The sequence is splitmix64 started at the key, in int64 arithmetic, so it is the same on every device.
    """
    key = torch.tensor(list(keys), device=indices.device)[:, None]
    return (shifted(splitmix64(key, indices), 12).double() + 0.5) / (1 << 52)
