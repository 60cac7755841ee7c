"""How far the figures of language models can be trusted: intervals over songs and seeds, of values and of paired differences.

How they are made: `evaluation/intervals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from duotok.comparison.metrics import Measured
from duotok.errors import MetricError
from duotok.evaluation.intervals import Array, Intervals, Resampling, draws, intervals, minimum_songs


def estimate(seeds: Sequence[Measured], resampling: Resampling = Resampling()) -> Intervals:
    """Every figure, mean over seeds (one `Measured` each, on the same songs), with its interval.

    Raises MetricError for fewer songs than an interval needs and for seeds with unequal songs.
    """
    return intervals(_replicates(seeds, resampling, 1), len(seeds[0].sums.songs), resampling)


def difference(
    first: Sequence[Measured],
    second: Sequence[Measured],
    resampling: Resampling = Resampling(),
    same_seeds: bool = False,
) -> Intervals:
    """first - second of every figure that both have, on the same songs: what two tokenizers differ by.

    Songs are drawn together, seeds apart; with `same_seeds` (the same models twice, or pairs of trainings) these too. Raises MetricError as
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
    return intervals(joined, len(first[0].sums.songs), resampling)


def _same_songs(first: Measured, second: Measured) -> None:
    odd = sorted(set(first.sums.songs) ^ set(second.sums.songs))
    if odd:
        raise MetricError(f"song '{odd[0]}' was scored only in one of two runs; compare runs on the same songs")


def _replicates(seeds: Sequence[Measured], resampling: Resampling, stream: int) -> dict[str, Array]:
    """`[1 + replicates]` of every figure. stream: which random draws the seeds get; the songs always get those of 0."""
    if not seeds:
        raise MetricError("no run; an interval needs at least one")
    for other in seeds[1:]:
        _same_songs(seeds[0], other)
    songs, least = len(seeds[0].sums.songs), minimum_songs(resampling.level)
    if songs < least:
        raise MetricError(
            f"{songs} songs: a {100 * resampling.level:g}% interval needs at least {least}; score more songs"
        )
    of_songs, of_seeds = draws(songs, resampling, 0), draws(len(seeds), resampling, stream)
    figures = [measured.figures(of_songs) for measured in seeds]
    return {
        name: np.einsum("sr,rs->r", np.stack([f[name] for f in figures]), of_seeds)
        for name in figures[0]
        if all(name in f for f in figures)
    }
