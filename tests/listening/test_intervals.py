"""Intervals: by hand, and whether they hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from duotok.listening.intervals import Score, difference, mean


def study(
    raters: int, songs: int, random: np.random.Generator, spread: tuple[float, float, float], kept: float = 1.0
) -> list[Score]:
    of_raters, of_songs = random.normal(0, spread[0], raters), random.normal(0, spread[1], songs)
    return [
        Score(r, f"s{s}", f"s{s}", "x", 3 + of_raters[r] + of_songs[s] + random.normal(0, spread[2]))
        for r in range(raters)
        for s in range(songs)
        if random.random() < kept
    ]


@pytest.mark.parametrize(
    ("raters", "songs", "spread", "kept"),
    [
        (10, 12, (0.5, 0.5, 0.7), 1.0),
        (10, 8, (0.0, 0.0, 1.0), 1.0),
        (15, 8, (0.6, 0.3, 0.7), 0.5),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    raters: int, songs: int, spread: tuple[float, float, float], kept: float
) -> None:
    """95 %: over new raters and new songs each time. 120 studies: 0.90 is under it by 2.5 standard errors."""
    random = np.random.default_rng(1)
    found = [mean(study(raters, songs, random, spread, kept)) for _ in range(120)]
    covered = np.mean([m.low is not None and m.high is not None and m.low <= 3 <= m.high for m in found])
    assert 0.90 <= covered <= 0.995, covered


def test_taking_ratings_for_independent_would_not_hold() -> None:
    """The control: the plain standard error over all ratings is far too small where raters and songs have habits."""
    random = np.random.default_rng(1)
    held = []
    for _ in range(120):
        values = np.array([score.value for score in study(10, 12, random, (0.5, 0.5, 0.7))])
        half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
        held.append(abs(values.mean() - 3) <= half)
    assert np.mean(held) < 0.75


def test_by_hand_over_raters() -> None:
    """Raters' own means are 1 to 6 on one song: the textbook interval of six numbers."""
    scores = [Score(rater, "one", "one", "x", value) for rater, value in enumerate((1, 2, 3, 4, 5, 6))]
    found = mean(scores)
    half = 2.5706 * 1.8708 / math.sqrt(6)
    assert found.value == 3.5 and found.over == "raters, for this song alone"
    assert found.low == pytest.approx(3.5 - half, abs=1e-3) and found.high == pytest.approx(3.5 + half, abs=1e-3)
    twice = [Score(s.rater, s.song, "two", "x", s.value) for s in scores]
    assert mean(scores + twice).low == pytest.approx(found.low), (
        "more ratings of the same raters alike tell nothing new"
    )


def test_few_raters_have_no_interval_and_it_says_so() -> None:
    found = mean([Score(rater, "one", "one", "x", 3.0 + rater) for rater in range(5)])
    assert (found.low, found.high, found.value) == (None, None, 5.0)
    assert found.over == "no interval: 5 raters, of 6 at least"


def test_ends_stay_on_the_scale() -> None:
    scores = [Score(rater, "one", "one", "x", 5.0 - (rater == 0)) for rater in range(6)]
    found = mean(scores, 1, 5)
    assert found.high == 5 and found.low is not None and found.low < found.value


def test_differences_are_of_the_same_rater_and_clip() -> None:
    random = np.random.default_rng(0)
    first = study(8, 8, random, (1.0, 1.0, 0.1))
    second = [Score(s.rater, s.song, s.clip, "y", s.value - 0.5 + random.normal(0, 0.05)) for s in first]
    found = difference(first, second)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < 0.5 < found.high and found.high - found.low < 0.1, "the habits of raters and songs cancel"
    alone = mean(first)
    assert alone.low is not None and alone.high is not None and alone.high - alone.low > 1
    assert difference(first, [Score(99, "z", "z", "y", 1.0)]) is None
