"""Average precision and area under the ROC curve of tags, macro, with intervals over songs and seeds of the probe.

Equal scores are one threshold (as in scikit-learn): songs of equal score enter together, so that their order changes
nothing. Average precision is the sum of precision over the recall that each threshold adds, without interpolation. Songs
carry weights, so that a bootstrap over songs sorts each tag once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duotok.errors import MetricError
from duotok.evaluation.intervals import Array, Intervals, Resampling, draws, intervals, minimum_songs

Truth = NDArray[np.bool_]
FIGURES = ("ap", "auc")


@dataclass(frozen=True)
class MeasuredTags:
    """Which tags can be measured on some songs. without_positives, without_negatives: those that no song or every song carries."""

    measured: tuple[str, ...]
    without_positives: tuple[str, ...] = ()
    without_negatives: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        return self.without_positives + self.without_negatives


def measured_tags(truth: Truth, tags: Sequence[str]) -> MeasuredTags:
    """The tags with both positives and negatives in `truth [songs, tags]`. Raises MetricError when there is none."""
    if truth.ndim != 2 or truth.shape[1] != len(tags):
        raise MetricError(f"labels {list(truth.shape)} for {len(tags)} tags; give one column a tag")
    carried = dict(zip(tags, truth.sum(0).tolist(), strict=True))
    measured = tuple(tag for tag, count in carried.items() if 0 < count < len(truth))
    if not measured:
        raise MetricError(f"{len(truth)} songs: each of {len(tags)} tags is on all of them or on none; take more songs")
    return MeasuredTags(
        measured,
        tuple(tag for tag, count in carried.items() if count == 0),
        tuple(tag for tag, count in carried.items() if count == len(truth) > 0),
    )


def curves(scores: NDArray[np.floating], truth: Truth, weights: Array) -> tuple[Array, Array]:
    """(average precision, area under the ROC curve) of one tag under each row of weights, `[rows]` each.

    scores: `[songs]`; truth: bool `[songs]`; weights: `[rows, songs]`, not negative: how often a bootstrap drew each song.
    NaN in the rows in which all positives, or all negatives, have the weight 0.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    positive = np.cumsum(np.where(truth, weights, 0.0)[:, order], axis=1)[:, ends]
    negative = np.cumsum(np.where(truth, 0.0, weights)[:, order], axis=1)[:, ends]
    found, false = (np.diff(sums, axis=1, prepend=0.0) for sums in (positive, negative))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A threshold at which no weight lies yet has no precision, and adds no recall.
        precision = np.where(positive > 0, positive / (positive + negative), 0.0)
        ap = (found * precision).sum(1) / positive[:, -1]
        auc = (false * (positive - found / 2)).sum(1) / (positive[:, -1] * negative[:, -1])
    alone = (positive[:, -1] <= 0) | (negative[:, -1] <= 0)
    return np.where(alone, np.nan, ap), np.where(alone, np.nan, auc)


def each_tag(scores: NDArray[np.floating], truth: Truth, tags: Sequence[str]) -> dict[str, tuple[float, float]]:
    """(average precision, area under the ROC curve) of each tag that can be measured; `scores`, `truth`: `[songs, tags]`."""
    once = np.ones((1, len(truth)))
    chosen = measured_tags(truth, tags).measured
    found = {tag: curves(scores[:, at], truth[:, at], once) for at, tag in enumerate(tags) if tag in chosen}
    return {tag: (float(ap[0]), float(auc[0])) for tag, (ap, auc) in found.items()}


def macro(
    seeds: Sequence[NDArray[np.floating]], truth: Truth, tags: Sequence[str], resampling: Resampling = Resampling()
) -> dict[str, Array]:
    """Replicates `[1 + replicates]` of `ap` and `auc`: means over tags and seeds, the value itself first.

    seeds: scores `[songs, tags]` of each seed. A replicate is the value plus the mean change of its tags, where a tag of which it
    drew no song (or only such) has not changed; replicates are recentred on the value, because songs that are drawn twice
    raise average precision. Raises MetricError when no tag can be measured, a score is no number, or shapes differ.
    """
    chosen = measured_tags(truth, tags).measured
    weights = draws(len(truth), resampling, 0)
    of_seeds: list[dict[str, Array]] = []
    for scores in seeds:
        if scores.shape != truth.shape:
            raise MetricError(f"scores {list(scores.shape)} for labels {list(truth.shape)}; score every song and tag")
        if not np.isfinite(scores).all():
            raise MetricError(f"{int((~np.isfinite(scores)).sum())} scores are no numbers; lower the probe's lr")
        of_tags = [curves(scores[:, at], truth[:, at], weights) for at, tag in enumerate(tags) if tag in chosen]
        of_seeds.append({name: _replicates([tag[at] for tag in of_tags]) for at, name in enumerate(FIGURES)})
    drawn = draws(len(seeds), resampling, 1)
    return {name: np.einsum("sr,rs->r", np.stack([seed[name] for seed in of_seeds]), drawn) for name in FIGURES}


def _replicates(of_tags: Sequence[Array]) -> Array:
    """Of the mean over tags, from those of each tag, NaN where a replicate cannot measure it."""
    stacked = np.stack(of_tags)
    changes = np.nan_to_num(stacked - stacked[:, :1]).mean(0)
    changes[1:] -= changes[1:].mean()
    replicates: Array = stacked[:, 0].mean() + changes
    return replicates


def estimate(replicates: dict[str, Array], songs: int, resampling: Resampling = Resampling()) -> Intervals:
    """`macro`'s figures with their intervals. Raises MetricError for fewer songs than an interval needs."""
    least = minimum_songs(resampling.level)
    if songs < least:
        raise MetricError(
            f"{songs} songs: a {100 * resampling.level:g}% interval needs at least {least}; test on more songs"
        )
    return intervals(replicates, songs, resampling)


def advantage(
    first: dict[str, Array], second: dict[str, Array], songs: int, resampling: Resampling = Resampling()
) -> Intervals:
    """first - second of every figure with intervals, on the same songs in the same order (`macro` draws them alike)."""
    return estimate({name: first[name] - second[name] for name in first}, songs, resampling)
