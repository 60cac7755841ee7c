"""How far the figures can be trusted: bootstrap intervals over songs and seeds, of values and of paired differences.

Songs are resampled whole, since the tokens of a song depend on each other. With several seeds (models trained alike) the
figure is their mean, and songs and seeds are resampled independently of each other. Of n songs n - 1 are drawn, of m
seeds m - 1, so that the variance of the replicates is unbiased (Rao and Wu 1988); the percentiles are those of a t
distribution with n - 1 degrees of freedom, because plain ones are too narrow for few songs (Hesterberg 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from duotok.errors import MetricError

Array = NDArray[np.float64]


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


def draws(count: int, resampling: Resampling, stream: int) -> Array:
    """Weights `[1 + replicates, count]`: first everything once (the value itself), then the replicates."""
    once = np.full((1, count), 1 / count)
    if count == 1:
        return np.repeat(once, 1 + resampling.replicates, 0)
    random = np.random.default_rng([resampling.seed, stream])
    drawn = random.multinomial(count - 1, np.full(count, 1 / count), size=resampling.replicates) / (count - 1)
    return np.concatenate([once, drawn])


def intervals(replicates: dict[str, Array], songs: int, resampling: Resampling) -> Intervals:
    tail = float(ndtr(stdtrit(songs - 1, (1 - resampling.level) / 2)))
    result = {}
    for name, values in replicates.items():
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        result[name] = Interval(float(values[0]), float(low), float(high))
    return result
