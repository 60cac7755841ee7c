"""Bootstrap intervals: reproducible, paired, and wide enough."""

from __future__ import annotations

import numpy as np
import pytest

from duotok.comparison.intervals import difference, estimate, relative_cost
from duotok.comparison.metrics import Measured, measure
from duotok.errors import MetricError
from duotok.evaluation.intervals import Interval, Resampling, minimum_songs
from duotok.lm.scores import SongScore

FAST = Resampling(replicates=400)


def run(means: np.ndarray, prefix: str = "song", frames: int = 20) -> Measured:
    """A run in which song i costs `means[i]` bits a token (times what varies within a song, of mean 1)."""
    shape = 1 + 0.2 * np.sin(np.arange(frames))
    shape /= shape.mean()
    scores = [
        SongScore(
            song=f"{prefix}{i:03d}",
            stream="vocals",
            codebook=0,
            size=256,
            bits=(mean * shape).astype(np.float32),
            ranks=np.zeros(frames, np.int32),
            codes=np.arange(frames, dtype=np.int32),
        )
        for i, mean in enumerate(means)
    ]
    return measure(scores, 25.0)


def songs(count: int, seed: int, mean: float = 4.0, spread: float = 0.5) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, spread, count), 0.1, None)


def test_deterministic_and_about_the_value() -> None:
    first, second = (estimate([run(songs(20, 0))], FAST) for _ in range(2))
    assert first == second
    assert first != estimate([run(songs(20, 0))], Resampling(400, seed=1))
    bpt = first["vocals.bpt"]
    assert bpt.value == pytest.approx(songs(20, 0).mean(), rel=1e-5)
    assert bpt.low < bpt.value < bpt.high
    # The standard error of the mean, by the book.
    width = 2 * 2.09 * songs(20, 0).std(ddof=1) / np.sqrt(20)
    assert bpt.high - bpt.low == pytest.approx(width, rel=0.15)


def test_order_of_songs_does_not_matter() -> None:
    means = songs(10, 0)
    scores = _scores(means)
    assert estimate([measure(scores, 25.0)], FAST) == estimate([measure(scores[::-1], 25.0)], FAST)


def _scores(means: np.ndarray) -> list[SongScore]:
    ones = np.ones(5, np.float32)
    codes = np.arange(5, dtype=np.int32)
    return [SongScore(f"{i}", "vocals", 0, 256, m.astype(np.float32) * ones, codes, codes) for i, m in enumerate(means)]


def test_long_songs_weigh_more() -> None:
    """Figures are over tokens, not means of songs."""
    many = np.zeros(45, np.int32)
    scores = [*_scores(np.full(9, 2.0)), SongScore("long", "vocals", 0, 256, np.full(45, 6, np.float32), many, many)]
    assert estimate([measure(scores, 25.0)], FAST)["vocals.bpt"].value == pytest.approx(4.0)


def covered(count: int, seeds: int, apart: float, trials: int = 200) -> float:
    """How many of 95 % intervals hold the true mean: skewed songs, seeds that differ by `apart` bits."""
    random, held = np.random.default_rng(5), 0
    truth = np.exp(1.3 + 0.3**2 / 2)
    for trial in range(trials):
        base = np.exp(random.normal(1.3, 0.3, count))
        runs = [run(base + random.normal(0, apart), frames=2) for _ in range(seeds)]
        found = estimate(runs, Resampling(replicates=200, seed=trial))["vocals.bpt"]
        held += found.low <= truth <= found.high
    return held / trials


@pytest.mark.parametrize(
    ("count", "seeds", "apart"), [(6, 1, 0), (8, 1, 0), (40, 1, 0), (8, 3, 0.1), (20, 3, 0.1), (20, 5, 0.3)]
)
def test_coverage(count: int, seeds: int, apart: float) -> None:
    share = covered(count, seeds, apart)
    print(f"{count} songs, {seeds} seeds {apart} bits apart: {share:.1%}")
    assert 0.89 <= share <= 0.99


def test_three_seeds_unlike_each_other_are_few() -> None:
    """What docs/lm.md warns of: where the seeds differ by more than the songs, three of them say too little."""
    share = covered(40, 3, 0.6)
    print(f"40 songs, 3 seeds 0.6 bits apart: {share:.1%}")
    assert 0.7 <= share <= 0.93


def test_pairing_sees_what_single_intervals_hide() -> None:
    means = songs(15, 1, spread=1.0)
    better = means - 0.1 + 0.02 * songs(15, 2, 0.0, 1.0)
    first, second = [run(means)], [run(better)]
    a, b = estimate(first, FAST)["vocals.cnbpt"], estimate(second, FAST)["vocals.cnbpt"]
    assert a.low < b.high
    gap = difference(second, first, FAST)["vocals.cnbpt"]
    assert gap.high < 0
    assert gap.excludes_zero
    mirrored = difference(first, second, FAST)["vocals.cnbpt"]
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-gap.value, -gap.high, -gap.low), abs=1e-6)


def test_the_same_run_differs_by_nothing() -> None:
    same = difference([run(songs(9, 0))], [run(songs(9, 0))], FAST)["vocals.cnbpt"]
    assert same == Interval(0, 0, 0)
    assert not same.excludes_zero


def test_seeds() -> None:
    """The value is the mean over seeds; seeds that differ make intervals wider, also of differences."""
    means = songs(12, 0)
    apart, alike = [run(means + d) for d in (-0.6, 0.0, 0.6)], [run(means)] * 3
    assert estimate(apart, FAST)["vocals.bpt"].value == pytest.approx(means.mean(), rel=1e-5)
    wide, narrow = (estimate(runs, FAST)["vocals.bpt"] for runs in (apart, alike))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert difference(apart, alike, FAST)["vocals.bpt"].high > 0.2
    # The same models twice: what the seeds differ by cancels.
    again = difference(apart, apart, FAST, same_seeds=True)["vocals.bpt"]
    assert (again.low, again.high) == (0, 0)


def test_relative_cost() -> None:
    """Equation 8. A cost in percent is the same for every song here, so the interval has no width."""
    means = songs(10, 0)
    cost = relative_cost([run(means)], [run(means * 1.173)], FAST)
    assert cost["average.cnbpt"].value == pytest.approx(17.3, abs=1e-3)
    assert cost["average.cnbpt"].high - cost["average.cnbpt"].low < 1e-3
    assert cost["average.enbpt"].value == pytest.approx(17.3, abs=1e-3)  # appendix A.2: invariant


@pytest.mark.parametrize(("level", "least"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_minimum(level: float, least: int) -> None:
    assert minimum_songs(level) == least
    resampling = Resampling(200, level)
    estimate([run(songs(least, 0))], resampling)
    with pytest.raises(MetricError, match=f"{least - 1} songs: a {level:.0%} interval needs at least {least}"):
        estimate([run(songs(least - 1, 0))], resampling)


def test_bad_input() -> None:
    some, others = run(songs(8, 0)), run(songs(9, 0))
    with pytest.raises(MetricError, match="song 'song008' was scored only in one of two runs"):
        estimate([some, others], FAST)
    with pytest.raises(MetricError, match="song 'song008' was scored only in one of two runs"):
        difference([some], [others], FAST)
    with pytest.raises(MetricError, match="1 seeds before and 2 after"):
        relative_cost([some], [some, some], FAST)
    with pytest.raises(MetricError, match="no run"):
        estimate([], FAST)
    with pytest.raises(MetricError, match="needs 0 < level < 1"):
        Resampling(level=95)
