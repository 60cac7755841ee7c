"""How predictable tokens were: BPT, cnBPT, enBPT, cnBPS, PPL@1024 and Acc@k (paper, equations 6-23).

All figures are ratios of sums over songs, so everything is first added up for each song and codebook (`SongSums`). A figure is
then a function of weights on the songs: equal weights give the value, resampled ones its interval (`intervals.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from duotok.errors import MetricError
from duotok.evaluation.intervals import Array
from duotok.lm.unigram import unigrams

if TYPE_CHECKING:
    from duotok.lm.scores import SongScore

ACCURACIES = (1, 5, 10, 50, 100, 200)
"""The k of Acc@k. It says nothing where k is not far below the codebook size: Acc@200 of 64 codes is 1."""


def fixed_bits(sizes: Sequence[int]) -> float:
    """Mean bits of a fixed-length index, 1/K sum log2 V_k (equations 14 and 21)."""
    return sum(math.log2(size) for size in sizes) / len(sizes)


def ppl1024(bpt: Array, sizes: Sequence[int]) -> Array:
    """exp(mean cross-entropy in nats) / (V / 1024), the geometric mean over codebooks: 2^(BPT - B_fix + 10)."""
    return np.exp2(bpt - fixed_bits(sizes) + 10)


def cnbpt_of_ppl1024(perplexity: float, sizes: Sequence[int]) -> float:
    """The cnBPT that a published PPL@1024 stands for."""
    fixed = fixed_bits(sizes)
    return (math.log2(perplexity) + fixed - 10) / fixed


def token_rate(frame_rate: float, codebooks: int) -> float:
    """Tokens a second, f K (equation 18)."""
    return frame_rate * codebooks


def bit_rate(frame_rate: float, sizes: Sequence[int]) -> float:
    """Bits a second of fixed-length indices, f sum log2 V_k (equation 19)."""
    return frame_rate * len(sizes) * fixed_bits(sizes)


@dataclass(frozen=True)
class SongSums:
    """Of every song and codebook: tokens, bits `[songs, codebooks]` and hits `[songs, codebooks, len(ACCURACIES)]`.

    songs: sorted; sizes: stream -> sizes of its codebooks. The codebooks of all streams are concatenated.
    """

    songs: tuple[str, ...]
    sizes: dict[str, tuple[int, ...]]
    tokens: Array
    bits: Array
    hits: Array

    def columns(self, stream: str) -> slice:
        """Where the codebooks of a stream are."""
        names = list(self.sizes)
        start = sum(len(self.sizes[name]) for name in names[: names.index(stream)])
        return slice(start, start + len(self.sizes[stream]))


def add_up(scores: Iterable[SongScore]) -> SongSums:
    """Sums of each song; several scores of one (song, stream, codebook), e.g. of its segments, are added.

    Raises MetricError, naming the song, for bits that are no number, for codebooks that a song lacks or that are of
    another size, and for codebooks of one stream with unequal numbers of tokens.
    """
    sizes: dict[tuple[str, int], int] = {}
    cells: dict[tuple[str, tuple[str, int]], Array] = {}
    for score in scores:
        book = (score.stream, score.codebook)
        name = f"song '{score.song}', {score.stream} codebook {score.codebook}"
        if sizes.setdefault(book, score.size) != score.size:
            raise MetricError(f"{name}: {score.size} codes, other songs have {sizes[book]}; score one codec at a time")
        if not np.isfinite(score.bits).all() or (len(score.bits) and float(score.bits.min()) < 0):
            raise MetricError(f"{name}: bits must be finite and not negative; the model that scored it is broken")
        ranks = score.ranks[:, None] < np.array(ACCURACIES)
        # float64: float32 loses bits of a sum over millions of tokens.
        cell = np.array([len(score.bits), score.bits.sum(dtype=np.float64), *ranks.sum(0)], dtype=np.float64)
        key = (score.song, book)
        cells[key] = cells[key] + cell if key in cells else cell
    streams = dict.fromkeys(stream for stream, _ in sizes)
    books = [book for stream in streams for book in sorted(b for b in sizes if b[0] == stream)]
    songs = sorted({song for song, _ in cells})
    if not songs:
        raise MetricError("no scores; the evaluation set is empty")
    for song in songs:
        for stream in streams:
            counts = [cells[song, book][0] if (song, book) in cells else 0.0 for book in books if book[0] == stream]
            if min(counts) == 0 or min(counts) != max(counts):
                numbers = ", ".join(f"{n:.0f}" for n in counts)
                raise MetricError(
                    f"song '{song}': {stream} has {numbers} scored tokens in its codebooks; must be equal, not 0"
                )
    table = np.array([[cells[song, book] for book in books] for song in songs])
    return SongSums(
        songs=tuple(songs),
        sizes={stream: tuple(sizes[book] for book in books if book[0] == stream) for stream in streams},
        tokens=table[..., 0],
        bits=table[..., 1],
        hits=table[..., 2:],
    )


@dataclass(frozen=True)
class Measured:
    """One model on one evaluation set. entropies: stream -> unigram entropy in bits, mean over its codebooks.

    The entropies belong to the codes, not to the model (appendix A.2): they stay fixed when songs are resampled.
    """

    sums: SongSums
    frame_rate: float
    entropies: dict[str, float]

    def figures(self, weights: Array) -> dict[str, Array]:
        """Every figure for `weights [replicates, songs]`: `STREAM.FIGURE` -> `[replicates]`.

        Figures of a stream, and `average.`: bpt, cnbpt, enbpt, ppl1024, acc1 ...; cnbps of a stream, and `total.cnbps`.
        `average` is the mean over streams (of PPL@1024 the geometric one). enbpt is NaN where a stream is one code only.
        """
        result: dict[str, Array] = {}
        streams = list(self.sums.sizes)
        for stream in streams:
            sizes, columns = self.sums.sizes[stream], self.sums.columns(stream)
            tokens = (weights @ self.sums.tokens[:, columns]).sum(-1)
            bpt = (weights @ self.sums.bits[:, columns]).sum(-1) / tokens
            entropy = self.entropies[stream]
            values = {
                "bpt": bpt,
                "cnbpt": bpt / fixed_bits(sizes),
                "enbpt": bpt / entropy if entropy > 0 else np.full_like(bpt, np.nan),
                "ppl1024": ppl1024(bpt, sizes),
                "cnbps": token_rate(self.frame_rate, len(sizes)) * bpt / fixed_bits(sizes),
            }
            hits = self.sums.hits[:, columns].sum(1)
            for i, k in enumerate(ACCURACIES):
                values[f"acc{k}"] = weights @ hits[:, i] / tokens
            result |= {f"{stream}.{name}": value for name, value in values.items()}
        for name in ("bpt", "cnbpt", "enbpt", *(f"acc{k}" for k in ACCURACIES)):
            result[f"average.{name}"] = _mean([result[f"{stream}.{name}"] for stream in streams])
        result["average.ppl1024"] = np.exp2(_mean([np.log2(result[f"{stream}.ppl1024"]) for stream in streams]))
        result["total.cnbps"] = np.sum([result[f"{stream}.cnbps"] for stream in streams], axis=0)
        return result

    def values(self) -> dict[str, float]:
        """Every figure, each song counted once."""
        return {name: float(value[0]) for name, value in self.figures(np.ones((1, len(self.sums.songs)))).items()}


def _mean(values: list[Array]) -> Array:
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)


def measure(
    scores: Sequence[SongScore],
    frame_rate: float,
    entropies: Mapping[str, float] | None = None,
    miller_madow: bool = False,
) -> Measured:
    """Prepare the figures of one model on one evaluation set.

    entropies: unigram entropies of the evaluation set by stream, in bits, mean over codebooks; None counts the scored
    tokens. miller_madow: correct those counted for few tokens. Raises MetricError (`add_up`).
    """
    sums = add_up(scores)
    if entropies is None:
        counted = unigrams(scores)
        entropies = {name: sum(u.entropy(miller_madow) for u in books) / len(books) for name, books in counted.items()}
    missing = [stream for stream in sums.sizes if stream not in entropies]
    if missing:
        raise MetricError(f"no unigram entropy of stream '{missing[0]}'; there are {', '.join(entropies)}")
    return Measured(sums, frame_rate, {stream: entropies[stream] for stream in sums.sizes})
