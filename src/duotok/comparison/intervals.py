"""How far the figures can be trusted: bootstrap intervals over songs and seeds, of values and of paired differences.

Songs are resampled whole, since the tokens of a song depend on each other. With several seeds (models trained alike) the
figure is their mean, and songs and seeds are resampled independently of each other. Of n songs n - 1 are drawn, of m
seeds m - 1, so that the variance of the replicates is unbiased (Rao and Wu 1988); the percentiles are those of a t
distribution with n - 1 degrees of freedom, because plain ones are too narrow for few songs (Hesterberg 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from duotok.comparison.metrics import Array, Measured, MetricError


@dataclass(frozen=True)
class Resampling:
    """How intervals are made. The same seed and songs give the same intervals to the last bit."""

    replicates: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.replicates < 100:
            raise MetricError(
                f"level {self.level:g} with {self.replicates} replicates: needs 0 < level < 1, and at least 100"
            )


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """`0.483 [0.471, 0.495]`; spec `+` writes the signs."""
        return f"{self.value:{spec}.3f} [{self.low:{spec}.3f}, {self.high:{spec}.3f}]"

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


Intervals = dict[str, Interval]
"""By name of the figure, e.g. `vocals.cnbpt`."""


def minimum_songs(level: float) -> int:
    """Songs below which no interval of this level exists without assuming a distribution.

    The widest one, from the lowest to the highest of n songs, misses the median with probability 2^(1 - n).
    """
    return math.ceil(1 - math.log2(1 - level))


def estimate(seeds: Sequence[Measured], resampling: Resampling = Resampling()) -> Intervals:
    """Every figure, mean over seeds (one `Measured` each, on the same songs), with its interval.

    Raises MetricError for fewer songs than an interval needs and for seeds with unequal songs.
    """
    return _intervals(_replicates(seeds, resampling, 1), len(seeds[0].sums.songs), resampling)


def difference(
    first: Sequence[Measured],
    second: Sequence[Measured],
    resampling: Resampling = Resampling(),
    same_seeds: bool = False,
) -> Intervals:
    """first - second of every figure that both have, on the same songs: what two tokenizers differ by.

    Songs are drawn together, seeds apart; with `same_seeds` (the same models twice) these too. Raises MetricError as
    `estimate`, and when the songs are not the same.
    """
    return _paired(first, second, resampling, same_seeds, lambda a, b: a - b)


def relative_cost(
    clean: Sequence[Measured], corrupted: Sequence[Measured], resampling: Resampling = Resampling()
) -> Intervals:
    """100 (corrupted - clean) / clean of every figure, in percent (equation 8): the same models and songs twice.

    Songs and seeds are drawn together. Raises MetricError as `difference`.
    """
    return _paired(clean, corrupted, resampling, True, lambda a, b: 100 * (b - a) / a)


def _paired(
    first: Sequence[Measured],
    second: Sequence[Measured],
    resampling: Resampling,
    same_seeds: bool,
    combine: Callable[[Array, Array], Array],
) -> Intervals:
    if same_seeds and len(first) != len(second):
        raise MetricError(f"{len(first)} seeds before and {len(second)} after; the same models must be scored twice")
    a, b = _replicates(first, resampling, 1), _replicates(second, resampling, 1 if same_seeds else 2)
    _same_songs(first[0], second[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        joined = {name: combine(a[name], b[name]) for name in a if name in b}
    return _intervals(joined, len(first[0].sums.songs), resampling)


def _same_songs(first: Measured, second: Measured) -> None:
    odd = sorted(set(first.sums.songs) ^ set(second.sums.songs))
    if odd:
        raise MetricError(f"song '{odd[0]}' was scored only in one of two runs; compare runs on the same songs")


def _draws(count: int, resampling: Resampling, stream: int) -> Array:
    """Weights `[1 + replicates, count]`: first everything once (the value itself), then the replicates."""
    once = np.full((1, count), 1 / count)
    if count == 1:
        return np.repeat(once, 1 + resampling.replicates, 0)
    random = np.random.default_rng([resampling.seed, stream])
    drawn = random.multinomial(count - 1, np.full(count, 1 / count), size=resampling.replicates) / (count - 1)
    return np.concatenate([once, drawn])


def _replicates(seeds: Sequence[Measured], resampling: Resampling, stream: int) -> dict[str, Array]:
    """`[1 + replicates]` of every figure. stream: which random draws the seeds get; the songs always get those of 0."""
    if not seeds:
        raise MetricError("no run; an interval needs at least one")
    for other in seeds[1:]:
        _same_songs(seeds[0], other)
    songs, least = len(seeds[0].sums.songs), minimum_songs(resampling.level)
    if songs < least:
        raise MetricError(f"{songs} songs: a {resampling.level:.0%} interval needs at least {least}; score more songs")
    of_songs, of_seeds = _draws(songs, resampling, 0), _draws(len(seeds), resampling, stream)
    figures = [measured.figures(of_songs) for measured in seeds]
    return {
        name: np.einsum("sr,rs->r", np.stack([f[name] for f in figures]), of_seeds)
        for name in figures[0]
        if all(name in f for f in figures)
    }


def _intervals(replicates: dict[str, Array], songs: int, resampling: Resampling) -> Intervals:
    tail = float(ndtr(stdtrit(songs - 1, (1 - resampling.level) / 2)))
    result = {}
    for name, values in replicates.items():
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        result[name] = Interval(float(values[0]), float(low), float(high))
    return result
