"""How far mean scores can be trusted: intervals for ratings in which raters and songs are crossed.

Two scores of one rater depend on each other, and so do two of one song. The variance of a mean is therefore that over raters, plus
that over songs, minus that over their cells, which both contain (Cameron, Gelbach and Miller 2011, equation 2.11: two-way clustered);
the interval takes the t distribution with one degree of freedom less than there are raters, or songs where these are fewer. A plain
bootstrap over both counts the noise of single ratings three times (Owen 2007), and one over ratings alone takes no dependence into account.

With fewer than six songs the interval is over raters alone, and holds for these very songs; with fewer than six raters there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEAST = 6
"""Raters or songs for a 95 % interval: of fewer, even the range from the lowest to the highest misses the median too often."""
LEVEL = 0.95

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One score: what was rated by whom."""

    rater: int
    song: str
    clip: str
    system: str
    value: float


@dataclass(frozen=True)
class Mean:
    """A mean with its interval (None: none, and `over` says why). over: what the interval speaks of."""

    value: float
    low: float | None
    high: float | None
    over: str
    ratings: int
    raters: int
    songs: int


def mean(scores: Sequence[Score], least: float = -math.inf, most: float = math.inf) -> Mean:
    """The mean of scores (at least one) with its 95 % interval, cut to the scale `least` to `most`."""
    return _interval(np.array([score.value for score in scores]), scores, least, most)


def difference(first: Sequence[Score], second: Sequence[Score]) -> Mean | None:
    """first - second where the same rater heard the same clip in both: raters and songs that are hard for both cancel. None
    where nobody did."""
    other = {(score.rater, score.clip): score.value for score in second}
    pairs = [score for score in first if (score.rater, score.clip) in other]
    if not pairs:
        return None
    return _interval(np.array([s.value - other[s.rater, s.clip] for s in pairs]), pairs, -math.inf, math.inf)


def _interval(values: Numbers, scores: Sequence[Score], least: float, most: float) -> Mean:
    raters, songs = [score.rater for score in scores], [score.song for score in scores]
    n_raters, n_songs = len(set(raters)), len(set(songs))
    centre = float(values.mean())

    def told(over: str, half: float | None) -> Mean:
        low, high = (None, None) if half is None else (max(least, centre - half), min(most, centre + half))
        return Mean(centre, low, high, over, len(values), n_raters, n_songs)

    if n_raters < LEAST:
        return told(f"no interval: {n_raters} rater{'s' if n_raters > 1 else ''}, of {LEAST} at least", None)
    errors = values - centre
    variance = _variance(errors, raters)
    degrees = n_raters
    over = f"raters, for these {n_songs} songs alone" if n_songs > 1 else "raters, for this song alone"
    if n_songs >= LEAST:
        of_songs = _variance(errors, songs)
        of_cells = _variance(errors, list(zip(raters, songs, strict=True)))
        variance = max(variance + of_songs - of_cells, variance, of_songs)
        degrees = min(n_raters, n_songs)
        over = "raters and songs"
    return told(over, float(stdtrit(degrees - 1, (1 + LEVEL) / 2)) * math.sqrt(variance))


def _variance(errors: Numbers, groups: Sequence[object]) -> float:
    """Variance of a mean whose errors depend on each other inside groups."""
    places: dict[object, int] = {}
    sums = np.bincount([places.setdefault(group, len(places)) for group in groups], weights=errors)
    return float(np.square(sums).sum()) / len(errors) ** 2 * len(sums) / max(1, len(sums) - 1)
