"""How a codebook is used: utilization, entropy, and the best values that a sample of this size could show.

Counts are added up over files, so that hours of tokens cost one vector. Definitions: paper, equations 7 and 17:
H = -sum p_i log2 p_i over the unigram distribution, H_norm = H / log2 V.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class UsageFacts:
    """Usage of a codebook. Entropies in bits; the `uniform_` values are those of ideal, uniform codes in as many tokens."""

    tokens: int
    codebook_size: int
    distinct: int
    utilization: float
    entropy: float
    normalized_entropy: float
    uniform_utilization: float
    uniform_normalized_entropy: float
    most_frequent_share: float

    @property
    def note(self) -> str:
        """One sentence about the size of the sample."""
        if self.uniform_utilization > 0.99 and self.uniform_normalized_entropy > 0.98:
            return f"{self.tokens:,} tokens for {self.codebook_size:,} entries: enough to judge the codebook."
        return (
            f"{self.tokens:,} tokens for {self.codebook_size:,} entries are too few to judge the codebook: even "
            f"perfectly uniform codes would show a utilization of {self.uniform_utilization:.3f} and a normalized "
            f"entropy of {self.uniform_normalized_entropy:.3f} here."
        )

    def as_dict(self) -> dict[str, float | int | str]:
        """For `--json`."""
        return {**self.__dict__, "note": self.note}


class CodeUsage:
    """Counts of every code of one codebook, accumulated over any number of files."""

    def __init__(self, codebook_size: int) -> None:
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {codebook_size}")
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    @property
    def codebook_size(self) -> int:
        return len(self.counts)

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    def add(self, codes: Tensor) -> CodeUsage:
        """Count integer `codes` of any shape. Raises ValueError for a code outside the codebook."""
        flat = codes.flatten().to(torch.int64).cpu()
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.codebook_size:
            raise ValueError(f"codes from {int(flat.min())} to {int(flat.max())} in a codebook of {self.codebook_size}")
        self.counts += torch.bincount(flat, minlength=self.codebook_size)
        return self

    def histogram(self) -> Tensor:
        """Share of the tokens that each code takes, most frequent first: float64 `[codebook_size]`."""
        shares = self.counts.double() / max(1, self.tokens)
        return shares.sort(descending=True).values

    def entropy(self) -> float:
        """Plug-in unigram entropy in bits (it is too low while tokens are few; see `facts().note`)."""
        return entropy_bits(self.counts.numpy())

    def facts(self) -> UsageFacts:
        """All figures of the tokens counted so far."""
        size, tokens = self.codebook_size, self.tokens
        distinct = int((self.counts > 0).sum())
        entropy = self.entropy()
        return UsageFacts(
            tokens=tokens,
            codebook_size=size,
            distinct=distinct,
            utilization=distinct / size,
            entropy=entropy,
            normalized_entropy=entropy / math.log2(size),
            uniform_utilization=expected_utilization(tokens, size),
            uniform_normalized_entropy=expected_entropy(tokens, size) / math.log2(size),
            most_frequent_share=float(self.counts.max()) / max(1, tokens),
        )


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Plug-in entropy in bits of how often each code occurs, `[codebook_size]` (equation 7); 0 without tokens.

    H = log2 N - sum c log2 c / N, which is -sum p log2 p with p = c / N: exact for one code (0) and for equal counts.
    """
    nonzero = counts[counts > 0].astype(np.float64)
    if not len(nonzero):
        return 0.0
    return max(0.0, float(np.log2(nonzero.sum()) - (nonzero * np.log2(nonzero)).sum() / nonzero.sum()))


def expected_utilization(tokens: int, codebook_size: int) -> float:
    """Share of a codebook that `tokens` independent uniform draws touch on average: 1 - (1 - 1/V)^N."""
    return -math.expm1(tokens * math.log1p(-1.0 / codebook_size))


def expected_entropy(tokens: int, codebook_size: int) -> float:
    """Mean plug-in entropy in bits of `tokens` independent uniform draws from `codebook_size` codes.

    Every code's count is binomial(N, 1/V), so E[H] = log2 N - V E[c log2 c] / N; the sum runs until its terms vanish.
    """
    if tokens < 1:
        return 0.0
    mean = tokens / codebook_size
    last = min(tokens, math.ceil(mean + 12 * math.sqrt(mean) + 30))
    count = torch.arange(1, last + 1, dtype=torch.float64)
    log_chance = (
        math.lgamma(tokens + 1)
        - torch.lgamma(count + 1)
        - torch.lgamma(tokens - count + 1)
        - count * math.log(codebook_size)
        + (tokens - count) * math.log1p(-1.0 / codebook_size)
    )
    return math.log2(tokens) - codebook_size / tokens * float((log_chance.exp() * count * count.log2()).sum())
