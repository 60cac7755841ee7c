"""How often each code occurs: the empirical unigram entropy behind enBPT (equation 7), utilization (appendix E)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duotok.evaluation.codes import entropy_bits, expected_entropy, expected_utilization

if TYPE_CHECKING:
    from duotok.lm.scores import SongScore
    from duotok.lm.song import TokenizedSong
    from duotok.lm.streams import CodecIdentity


@dataclass(frozen=True)
class Unigram:
    """Counts of the codes of one codebook, int64 `[size]`."""

    counts: NDArray[np.int64]

    @property
    def size(self) -> int:
        return len(self.counts)

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def utilization(self) -> float:
        """Share of the codebook that occurs at least once."""
        return int((self.counts > 0).sum()) / self.size

    def entropy(self, miller_madow: bool = False) -> float:
        """H in bits, as in the paper (`evaluation.codes:entropy_bits`).

        miller_madow: add (distinct - 1) / (2 N ln 2), the first-order correction of the bias that makes the plain figure
        too low while tokens are few; never above log2 V.
        """
        plain = entropy_bits(self.counts)
        if not miller_madow or not self.tokens:
            return plain
        distinct = int((self.counts > 0).sum())
        return min(math.log2(self.size), plain + (distinct - 1) / (2 * self.tokens * math.log(2)))

    def normalized(self, miller_madow: bool = False) -> float:
        """H_norm = H / log2 V (equation 17)."""
        return self.entropy(miller_madow) / math.log2(self.size)

    def bits_by_frequency(self, learned: Unigram, prior: float = 0.5) -> float:
        """Bits a token when each costs what its frequency among the `learned` ones says, with `prior` tokens of every code
        added (Krichevsky and Trofimov's half): what a model without memory would reach. NaN without tokens."""
        if not self.tokens:
            return math.nan
        share = (learned.counts + prior) / (learned.tokens + prior * learned.size)
        return float(-(self.counts * np.log2(share)).sum() / self.tokens)

    def uniform(self) -> tuple[float, float]:
        """What ideal, uniform codes would show in as many tokens: (utilization, normalized entropy)."""
        return expected_utilization(self.tokens, self.size), expected_entropy(self.tokens, self.size) / math.log2(
            self.size
        )


def count(codes: NDArray[np.integer], size: int) -> Unigram:
    """Counts of integer `codes` of any shape. Raises ValueError for a code outside 0..size-1."""
    flat = np.asarray(codes).ravel()
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < size:
        raise ValueError(f"codes from {int(flat.min())} to {int(flat.max())} in a codebook of {size}")
    return Unigram(np.bincount(flat, minlength=size).astype(np.int64))


def unigrams(scores: Iterable[SongScore]) -> dict[str, tuple[Unigram, ...]]:
    """Counts of the scored tokens, by stream, one for each codebook in order."""
    totals: dict[tuple[str, int], NDArray[np.int64]] = {}
    for score in scores:
        counts = count(score.codes, score.size).counts
        key = (score.stream, score.codebook)
        totals[key] = totals[key] + counts if key in totals else counts
    return by_stream({key: Unigram(counts) for key, counts in totals.items()})


def count_songs(codec: CodecIdentity, songs: Sequence[TokenizedSong]) -> dict[str, tuple[Unigram, ...]]:
    """Counts of all tokens of some songs, by stream, one for each codebook in order."""
    return by_stream({
        (column.stream, column.codebook): count(
            np.concatenate([song.tokens[column.stream][column.codebook] for song in songs]), column.size
        )
        for column in codec.columns
    })  # fmt: skip


def by_stream(books: Mapping[tuple[str, int], Unigram]) -> dict[str, tuple[Unigram, ...]]:
    """(stream, codebook) -> counts, as stream -> counts of its codebooks in order; streams in order of appearance."""
    streams = dict.fromkeys(stream for stream, _ in books)
    return {s: tuple(books[key] for key in sorted(k for k in books if k[0] == s)) for s in streams}
